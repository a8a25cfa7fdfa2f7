# The serving image: the serve extra, the code, and the weights. EXTRA=gpu installs ONNX Runtime for CUDA with its libraries.
# The digest decides which base is used, and the tag is for readers. To renew the digest, which brings security fixes:
#   docker buildx imagetools inspect python:3.11-slim-bookworm --format '{{.Manifest.Digest}}'
ARG BASE=python:3.11-slim-bookworm@sha256:0bee7276f83efd4a1ee05bbbf4281d95ed28e079220a9457f25a93e3f1e3c31b

FROM ${BASE} AS packages
ARG EXTRA=serve
RUN python -m venv --without-pip /opt/seqserve
COPY requirements/${EXTRA}.txt lock.txt
RUN pip --python /opt/seqserve/bin/python install --no-cache-dir --no-deps --require-hashes --disable-pip-version-check -r lock.txt
# The packages of the image as CycloneDX (SBOM), written by a tool in an environment of its own.
COPY requirements/sbom.txt sbom.txt
RUN python -m venv /opt/sbom && \
    /opt/sbom/bin/pip install --no-cache-dir --no-deps --require-hashes --disable-pip-version-check -r sbom.txt && \
    /opt/sbom/bin/cyclonedx-py environment /opt/seqserve/bin/python --output-reproducible -o /opt/seqserve/sbom.cdx.json

FROM ${BASE}
RUN useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin seqserve
COPY --from=packages /opt/seqserve /opt/seqserve
# Do not set BENTOML_CONTAINERIZED: with it, BentoML does not restart a worker that died.
# The service writes below /tmp only, so the root file system can be read-only.
ENV PATH=/opt/seqserve/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    BENTOML_DO_NOT_TRACK=True \
    ORT_DISABLE_TELEMETRY=1 \
    SEQSERVE_GRPC_HOST=0.0.0.0 \
    BENTOML_HOME=/tmp/bentoml \
    HOME=/tmp
WORKDIR /app
COPY seqserve.py .
COPY service service
COPY models/*.py models/
COPY models/codecs models/codecs
COPY models/files models/files
COPY models/inspect models/inspect
COPY models/tasks models/tasks
# The weights are the last layer, so a change of code does not invalidate the packages.
COPY models/zoo models/zoo
USER 10001
EXPOSE 3000
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:3000/readyz', timeout=2)"]
CMD ["python", "seqserve.py", "serve", "--host", "0.0.0.0"]
