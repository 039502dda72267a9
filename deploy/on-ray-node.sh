#!/bin/bash
# on-ray-node.sh HEAD:PORT COMMAND...: join a Ray cluster without offering it anything, and run COMMAND here.
# A driver of Ray shares memory with a raylet beside it, so it has to run on a node of the cluster; of one without CPUs
# no actor can take anything. When one of the two ends, the other is ended too: whoever started this starts both anew.
set -u
agent=${RAY_AGENT_PORT:-52365}
ray start --address="$1" --num-cpus=0 --num-gpus=0 --dashboard-agent-listen-port="$agent" \
  --metrics-export-port="${RAY_METRICS_PORT:-8080}" ${RAY_START_OPTIONS:-} --block &
node=$!
until alive.py "http://127.0.0.1:$agent/api/local_raylet_healthz" 2> /dev/null; do
  kill -0 "$node" 2> /dev/null || { echo "no Ray cluster at $1" >&2; exit 1; }
  sleep 1
done

"${@:2}" &
command=$!
trap 'kill -TERM "$command"' TERM INT # and the node stays until it has stopped
wait -n "$node" "$command"
kill -0 "$node" 2> /dev/null || kill -TERM "$command" 2> /dev/null
wait "$command"
status=$?
kill -TERM "$node" 2> /dev/null
wait "$node"
exit "$status"
