"""Calls a running service with tritonclient[grpc] and prints the answers as one JSON document.

test_oip_grpc.py runs it in its own process: its messages have the same names as ours, which one process cannot load
twice. Older releases also need the pure Python protobuf, which an environment variable selects.
"""

import json
import sys
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException, serialize_byte_tensor


def tensor(name: str, values: Any) -> Any:
    datatype = {"f": "FP32", "i": "INT32"}.get(values.dtype.kind, "BYTES")
    made = triton.InferInput(name, list(values.shape), datatype)
    try:
        made.set_data_from_numpy(values)
    except TypeError:  # release 2.17 with protobuf 7
        made._raw_content = serialize_byte_tensor(values).item() if datatype == "BYTES" else values.tobytes()
    return made


def texts(*values: str) -> Any:
    return np.array([value.encode() for value in values], np.object_)


def refused(client: Any, *args: Any, **more: Any) -> str:
    try:
        client.infer(*args, **more)
    except InferenceServerException as error:
        return f"{error.status()} {error.message()}"
    return "answered"


def main(address: str, raw: dict[str, dict[str, Any]]) -> dict[str, Any]:
    client = triton.InferenceServerClient(address)
    given = [tensor("text", texts("a lovely film", "ü"))]
    labeled = client.infer("tiny-classify", given, request_id="a-1", outputs=[triton.InferRequestedOutput("label")])
    parameters = tensor("parameters", texts('{"max_new_tokens": 12, "temperature": 0}'))
    graphs = {}
    for name, feeds in raw.items():
        found = client.infer(name, [tensor(each, np.array(*values)) for each, values in feeds.items()])
        outputs = [output.name for output in found.get_response().outputs]
        graphs[name] = {output: np.nan_to_num(found.as_numpy(output)).tolist() for output in outputs}
    return {
        "live": client.is_server_live() and client.is_server_ready() and client.is_model_ready("tiny-tag", "1"),
        "server": client.get_server_metadata().name,
        "inputs": [each.name for each in client.get_model_metadata("tiny-tag").inputs],
        "config": client.get_model_config("tiny-tag", as_json=True)["config"]["input"][0],
        "index": [model.name for model in client.get_model_repository_index().models],
        "labels": [label.decode() for label in labeled.as_numpy("label").ravel()],
        "id": labeled.get_response().id,
        "written": client.infer("tiny-generate", [tensor("text", texts("ROMEO:")), parameters])
        .as_numpy("text")[0]
        .decode(),
        "graphs": graphs,
        "refused": [
            refused(client, "nope", given),
            refused(client, "tiny-tag", given, model_version="9"),
            refused(client, "tiny-tag", given, outputs=[triton.InferRequestedOutput("nope")]),
        ],
    }


if __name__ == "__main__":
    json.dump(main(sys.argv[1], json.load(sys.stdin)), sys.stdout)
