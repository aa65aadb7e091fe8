//! Commands of a [`Host`]: what a user types runs unchanged, and stays inside.
//!
//! Input: the host's paths. Output: scripts in `bin/` that add them: podman's own storage and networks, the node's
//! namespace, the pin directory.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::Host;
use crate::daemon::binary;

/// File with the process of podman's API service.
pub(super) const SERVICE_PID: &str = "service.pid";
/// File with the process of `enforcer run`.
pub(super) const DAEMON_PID: &str = "daemon.pid";

const CONTAINERS_CONF: &str = "\
[containers]
default_ulimits = [\"nofile=20000:20000\", \"nproc=4096:4096\"]
[engine]
cgroup_manager = \"cgroupfs\"
runtime = \"runc\"
events_logger = \"file\"
lock_type = \"file\"
";

/// Writes them all.
pub(super) fn write(host: &Host) {
    let directory = host.directory.path().display().to_string();
    let (node, pins) = (host.node.display(), host.pin_dir.display());
    fs::write(host.file("containers.conf"), CONTAINERS_CONF).unwrap();
    // Below the host's own directory: nothing of the machine's own enforcer is read or written.
    fs::write(host.file("settings.yaml"), format!("state_dir: {directory}/state\nflows: 16384\nflow_quota: 4096\n"))
        .unwrap();
    fs::create_dir(host.file("bin")).unwrap();
    let inside = format!("nsenter --net={node}");
    script(
        host,
        "podman",
        &format!(
            "export CONTAINERS_CONF={directory}/containers.conf\n\
             exec {inside} /usr/bin/podman --storage-driver vfs --root {directory}/root --runroot {directory}/run \
             --tmpdir {directory}/tmp --network-config-dir {directory}/networks \"$@\""
        ),
    );
    script(
        host,
        "systemctl",
        &format!(
            "[ \"$*\" = 'enable --now podman.socket' ] || {{ echo \"systemctl: $* is not known here\" >&2; exit 1; }}\n\
             setsid {directory}/bin/podman system service --time 0 unix://{socket} >{directory}/service.log 2>&1 </dev/null &\n\
             echo $! >{directory}/{SERVICE_PID}\n\
             for try in $(seq 200); do [ -S {socket} ] && exit 0; sleep 0.05; done\n\
             exit 1",
            socket = host.socket().display()
        ),
    );
    let binary = binary();
    script(
        host,
        "enforcer",
        &format!(
            "command=$1\n\
             case $command in\n\
             run) shift; echo $$ >{directory}/{DAEMON_PID}\n\
             exec {binary} run --netns {node} --pin-dir {pins} --config {directory}/settings.yaml \
             --runtime-socket {socket} \"$@\";;\n\
             status|explain|purge) shift\n\
             exec {inside} {binary} $command --pin-dir {pins} --config {directory}/settings.yaml \"$@\";;\n\
             *) exec {binary} \"$@\";;\n\
             esac",
            binary = binary.display(),
            socket = host.socket().display()
        ),
    );
}

fn script(host: &Host, name: &str, body: &str) {
    let path = host.file("bin").join(name);
    fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}
