# prolu-eval with torch's CUDA build, which brings CUDA's libraries along; the host has the driver and
# the NVIDIA container toolkit.
#
#   docker build -t prolu-eval .
#   docker run --rm --gpus all --user "$(id -u):$(id -g)" -v "$PWD:/work" prolu-eval frontier runs/
#
# For a machine without a GPU: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu

FROM python:3.12-slim-bookworm AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY prolu_eval prolu_eval
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim-bookworm
ARG TORCH=2.13.0
ARG TORCH_INDEX=https://download.pytorch.org/whl/cu130
RUN pip install --no-cache-dir "torch==${TORCH}" --index-url "${TORCH_INDEX}"
# Triton compiles a small launcher for its kernels when they are first used. Which release of these
# the distribution has does not matter, and a pinned one is gone from it soon.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir /wheels/*.whl
# Caches go to a folder that any user may write to, so that --user "$(id -u):$(id -g)" lets results
# in the mounted folder belong to you.
RUN useradd --no-create-home --uid 1000 prolu
ENV HOME=/tmp
USER 1000
WORKDIR /work
ENTRYPOINT ["prolu-eval"]
CMD ["--help"]
