"""Clients that offer HTTP/2 on a plain connection are answered over HTTP/1.1: Java's default client, and curl."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.live_service import LiveService

INPUT = "a lovely film"
JAVA = """
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

class Client {
    public static void main(String[] arguments) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        for (int number = 0; number < 3; number++) {
            HttpRequest request = HttpRequest.newBuilder(URI.create(arguments[0]))
                .header("Content-Type", "application/json")
                .POST(HttpRequest.BodyPublishers.ofString(arguments[1]))
                .build();
            HttpResponse<String> response = client.send(request, HttpResponse.BodyHandlers.ofString());
            System.out.println(response.statusCode() + " " + response.body());
        }
    }
}
"""


def labels(answer: str) -> list[str]:
    return [label["label"] for label in json.loads(answer)[0]]


@pytest.mark.skipif(shutil.which("java") is None, reason="java is not installed")
@pytest.mark.parametrize("path", ["/v1/classify", "/classify"])
def test_the_default_client_of_java_gets_its_answers(live_service: LiveService, tmp_path: Path, path: str) -> None:
    source = tmp_path / "Client.java"
    source.write_text(JAVA)
    command = ["java", str(source), live_service.address.url + path, json.dumps({"inputs": INPUT})]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    answers = [line.partition(" ") for line in done.stdout.splitlines()]
    assert [status for status, _, _ in answers] == ["200"] * 3
    assert all(labels(answer) for _, _, answer in answers)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_with_an_offer_of_http_2_gets_its_answer(live_service: LiveService) -> None:
    command = ["curl", "-sS", "--fail", "-H", "connection: upgrade, http2-settings", "-H", "upgrade: h2c"]
    command += ["-H", "http2-settings: AAMAAABkAAQAoAAAAAIAAAAA", "-H", "content-type: application/json"]
    command += ["-d", json.dumps({"inputs": INPUT}), f"{live_service.address.url}/v1/classify"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert labels(done.stdout)
