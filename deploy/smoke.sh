#!/usr/bin/env bash
# Builds the images, trains the demo's recipe in containers, asks the served model about an image
# that it was not trained on, and takes everything down. Leaves the images, nothing else.
#
# Exit status: 0 all went well, 3 no container engine runs here, 1 anything else.
set -euo pipefail
cd "$(dirname "$0")"
readonly TIMEOUT_S=${SMOKE_TIMEOUT_S:-300} # from "up" to the end of the run

say() { printf 'smoke: %s\n' "$*"; }
skip() { say "$* Nothing was checked."; exit 3; }

command -v docker >/dev/null || skip "docker is not installed."
docker info >/dev/null 2>&1 || skip "no Docker engine answers."
if docker compose version >/dev/null 2>&1; then
  engine=(docker compose)
elif command -v docker-compose >/dev/null; then
  engine=(docker-compose)
else
  skip "neither 'docker compose' nor 'docker-compose' is installed."
fi
command -v curl >/dev/null || { say "curl is needed and not installed"; exit 1; }

# Own project name, own volumes, free ports: a fleet that runs here already is left alone.
export COMPOSE_PROJECT_NAME=fedfleet-smoke FEDFLEET_PORT=0 FEDFLEET_INFERENCE_PORT=0
compose() { "${engine[@]}" -f docker-compose.yml "$@"; }

scratch=$(mktemp -d)
finish() {
  local status=$?
  trap - EXIT
  if ((status)); then
    say "failed; the last lines of every service:"
    compose logs --no-color --tail 20 || true
  fi
  say "down"
  compose down --volumes --timeout 20 >"$scratch/down.log" 2>&1 || { cat "$scratch/down.log"; status=1; }
  rm -rf "$scratch"
  exit "$status"
}
trap finish EXIT

say "build"
started=$SECONDS
compose build >"$scratch/build.log" 2>&1 || { tail -n 30 "$scratch/build.log"; exit 1; }
say "built in $((SECONDS - started)) s"
docker image ls --format '{{.Repository}}:{{.Tag}} {{.Size}}' |
  sed -nE 's/^(fedfleet\/(coordinator|worker|inference-api)):latest /smoke:   \1 /p'

say "up"
started=$SECONDS
compose up -d >"$scratch/up.log" 2>&1 || { cat "$scratch/up.log"; exit 1; }
code=$(timeout "$TIMEOUT_S" docker wait "$(compose ps -q demo)") || { say "the run did not end within $TIMEOUT_S s"; exit 1; }
((code == 0)) || { say "the run failed"; exit 1; }
say "trained in $((SECONDS - started)) s"

# What a held-out image shows, and the image.
read -r label png < <(compose exec -T coordinator python -c '
from base64 import b64encode
from fedfleet.cli.recipes import load_recipe
from fedfleet.cli.sample import held_out_image
sample = held_out_image(load_recipe("digits-2"), None)
print(sample.labels[0], b64encode(sample.png).decode())
')
base64 --decode <<<"$png" >"$scratch/digit.png"

say "POST /predict: a held-out image of a $label"
url=http://$(compose port inference-api 8080)
curl --silent --show-error --fail-with-body --max-time 10 --retry 20 --retry-delay 1 --retry-connrefused \
  --form "file=@$scratch/digit.png" "$url/predict" >"$scratch/answer.json" || { cat "$scratch/answer.json"; exit 1; }
compose exec -T coordinator python -c '
import json, sys
answer = json.load(sys.stdin)
model = answer["model"]
print("smoke:   {name} version {version}, round {round}, {digest:.12}".format(**model))
for guess in answer["predictions"]:
    print("smoke:   {label} {probability:8.4%}".format(**guess))
sys.exit(len(answer["predictions"]) != 5 or answer["predictions"][0]["label"] != sys.argv[1])
' "$label" <"$scratch/answer.json" || { say "not five answers with $label first"; exit 1; }
say "passed"
