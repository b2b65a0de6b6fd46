# MiniMind in a container.
#
#   docker build -t minimind .                                                             CPU
#   docker build -t minimind:cuda --build-arg TORCH_INDEX=https://pypi.org/simple .        NVIDIA GPU
#   docker run --rm -it -v minimind-models:/models minimind demo --out demo
#
# The server with its chat page: see compose.yaml.
FROM python:3.11-slim-bookworm

# torch.compile and the engine's decoding step build themselves at first use; Triton wants a compiler too.
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*

# PyPI's torch for Linux is the one for CUDA; its own index has a much smaller one for CPUs, and pip prefers that.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /opt/minimind
COPY constraints.txt ./
RUN pip install --no-cache-dir -c constraints.txt --extra-index-url "$TORCH_INDEX" torch numpy

COPY pyproject.toml README.md ./
COPY minimind minimind
COPY recipes recipes
RUN pip install --no-cache-dir -c constraints.txt --extra-index-url "$TORCH_INDEX" ".[data,serve,export]"

# Not root; a named volume takes over who owns the folder that it is mounted on.
RUN useradd --create-home minimind \
    && install -d -o minimind /models /home/minimind/.cache /home/minimind/.cache/minimind
USER minimind
WORKDIR /models
VOLUME /models
EXPOSE 8000
ENTRYPOINT ["minimind"]
CMD ["--help"]
