//! The command `enforcer` of a [`Host`]. What a user types runs unchanged, but inside the host.
//!
//! Input: the host's paths. Output: a script that adds them: the node's namespace, the pin directory and the settings.

use std::fs;

use super::Host;
use crate::daemon::binary;

/// File with the process of `enforcer run`.
pub(super) const DAEMON_PID: &str = "daemon.pid";

/// Writes it.
pub(super) fn write(host: &Host) {
    let site = host.engine.site();
    let directory = site.directory().display();
    let (node, pins) = (host.node().display(), site.pin_dir().display());
    // Below the host's own directory: nothing of the machine's own enforcer is read or written.
    fs::write(
        host.file("settings.yaml"),
        format!("state_dir: {directory}/state\nflows: 16384\nflow_quota: 4096\nopening_wait_seconds: 0\n"),
    )
    .unwrap();
    host.engine.script(
        "enforcer",
        &format!(
            "command=$1\n\
             case $command in\n\
             run) shift; echo $$ >{directory}/{DAEMON_PID}\n\
             exec {binary} run --netns {node} --pin-dir {pins} --config {directory}/settings.yaml \
             --runtime-socket {socket} \"$@\";;\n\
             status|explain|purge) shift\n\
             exec nsenter --net={node} {binary} $command --pin-dir {pins} --config {directory}/settings.yaml \"$@\";;\n\
             *) exec {binary} \"$@\";;\n\
             esac",
            binary = binary().display(),
            socket = host.socket().display()
        ),
    );
}
