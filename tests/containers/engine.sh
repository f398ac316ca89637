#!/usr/bin/env bash
# podman in place of docker for the line of docs/operations.md that starts compose.yaml: writes a `podman` that uses the storage
# the image was built in, and a runtime that leaves limits alone which the root of this machine may not raise.
# usage: engine.sh FOLDER STORAGE_OPTION...     makes FOLDER/podman; exit 2 with the reason where it cannot run containers
set -euo pipefail
folder=$1
shift
for program in podman runc; do
  command -v $program >/dev/null || { echo "$program is missing (apt-get install podman runc)"; exit 2; }
done
cat >"$folder/runc" <<'END2'
#!/usr/bin/env python3
import json, os, resource, sys

# of a container that is made, and of a command that is run in one
for option, file, inner in (("--bundle", "config.json", "process"), ("--process", "", None)):
    if option in sys.argv:
        file = os.path.join(sys.argv[sys.argv.index(option) + 1], file).rstrip("/")
        with open(file) as opened:
            config = json.load(opened)
        for limit in (config[inner] if inner else config).get("rlimits", []):
            _, most = resource.getrlimit(getattr(resource, limit["type"]))
            if most != resource.RLIM_INFINITY:
                limit["hard"], limit["soft"] = min(limit["hard"], most), min(limit["soft"], most)
        with open(file, "w") as opened:
            json.dump(config, opened)
os.execvp("runc", ["runc", *sys.argv[1:]])
END2
cat >"$folder/podman" <<END2
#!/usr/bin/env bash
exec podman $* --cgroup-manager cgroupfs --runtime $folder/runc "\$@"
END2
chmod +x "$folder"/{runc,podman}
said=$("$folder/podman" info 2>&1) || { echo "podman: ${said:0:300}"; exit 2; }
