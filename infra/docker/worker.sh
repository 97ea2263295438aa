#!/bin/sh
# Prefect's process worker in a container that may be ended at any time: `hemaflow-worker --pool hemaflow`.
#
# Told to end, the worker alone would wait for its runs to finish and tell them nothing, until the container is killed
# and them with it. Here each run is told too: it keeps a checkpoint and goes back to the work pool, from where the
# next worker takes it up. The worker is held meanwhile: it would take it up itself, and runs write to its pipes.

prefect worker start --type process --base-job-template "${HEMAFLOW_PROCESS_TEMPLATE:?}" "$@" &
worker=$!

end() {
    trap '' TERM INT
    kill -STOP "$worker"
    runs=$(cat "/proc/$worker/task/"*/children)
    for run in $runs; do
        kill -TERM "$run"
    done
    for run in $runs; do
        # Those that ended stay as zombies, since their parent is held.
        while grep -qs '^State:[[:space:]]*[^ZX[:space:]]' "/proc/$run/status"; do
            sleep 0.2
        done
    done
    kill -KILL "$worker"
    exit 143
}
trap end TERM INT
wait "$worker"
