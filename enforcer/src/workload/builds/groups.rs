//! Tells the control group of a build from all others.
//!
//! Input: a line of `/proc/PID/cgroup`, as the node sees it. Output: who builds, and the id of the build. Such a group stands at
//! the top of the hierarchy, or in a group of the runtime's own. No container can make one there: what it makes lies below its own
//! group, whose path begins otherwise.

#![forbid(unsafe_code)]

/// How buildah names a control group.
const OF_BUILDAH: &str = "buildah-";
/// Where BuildKit makes its control groups: that of dockerd, that of its own, and that of its own with the parent that its
/// documentation shows.
const OF_BUILDKIT: [&str; 3] = ["docker/buildkit/", "buildkit/", "buildkit/buildkit/"];
/// Length of an id of BuildKit. An id of a container is longer, so a parent that people choose for containers makes no build.
const BUILDKIT_ID: usize = 25;

/// Who runs the step of a build.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Builder {
    /// `podman build` and `buildah run`.
    Buildah,
    /// `docker build` and `buildkitd`.
    BuildKit,
}

/// The build to which a control group belongs, from a line of `/proc/PID/cgroup`.
pub(super) fn build_of(line: &str) -> Option<(Builder, &str)> {
    let path = line.splitn(3, ':').nth(2)?.strip_prefix('/')?;
    let of_buildkit = || of_buildkit(path).or_else(|| of_buildkit_below_systemd(path));
    of_buildah(path).map(|id| (Builder::Buildah, id)).or_else(|| Some((Builder::BuildKit, of_buildkit()?)))
}

/// `/buildah-buildah123`, or the same below the slice of machines.
fn of_buildah(path: &str) -> Option<&str> {
    let path = path.strip_prefix("machine.slice/").unwrap_or(path);
    let id = path.split('/').next()?.strip_prefix(OF_BUILDAH)?;
    let id = id.strip_suffix(".scope").unwrap_or(id);
    let plain = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    (plain && !id.is_empty() && id.len() <= 128).then_some(id)
}

/// `/docker/buildkit/ID` and its like, where the runtime makes the groups itself.
fn of_buildkit(path: &str) -> Option<&str> {
    OF_BUILDKIT.iter().find_map(|parent| buildkit_id(path.strip_prefix(parent)?.split('/').next()?))
}

/// What BuildKit makes where systemd makes the groups. dockerd asks for `system.slice:docker:ID` as if systemd read that, but
/// nothing does: a group of this very name comes to be beside that of dockerd's service, or, with the first version of control
/// groups, below it. A `buildkitd` that can ask systemd gets a scope.
fn of_buildkit_below_systemd(path: &str) -> Option<&str> {
    let path = path.strip_prefix("system.slice/")?;
    let unit = path.strip_prefix("docker.service/").unwrap_or(path).split('/').next()?;
    if let Some(scope) = unit.strip_prefix("buildkit-") {
        return buildkit_id(scope.strip_suffix(".scope")?);
    }
    let (asked, id) = unit.rsplit_once(':')?;
    let (slice, by) = asked.split_once(':')?;
    slice.strip_suffix(".slice")?;
    if matches!(by, "docker" | "buildkit") { buildkit_id(id) } else { None }
}

/// Its ids are numbers to the base of 36.
fn buildkit_id(id: &str) -> Option<&str> {
    let digits = id.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase());
    (digits && id.len() == BUILDKIT_ID).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_group_at_the_top_is_a_builds() {
        for (line, build) in [
            ("9:name=systemd:/buildah-buildah1293269252", Some("buildah1293269252")),
            ("0::/buildah-buildah1/below", Some("buildah1")),
            ("0::/machine.slice/buildah-buildah1.scope", Some("buildah1")),
            ("0::/libpod_parent/libpod-0123/buildah-forged", None),
            ("0::/machine.slice/libpod-0123.scope/buildah-forged", None),
            ("0::/buildah-", None),
            ("0::/buildah-a b", None),
            ("0::/", None),
            ("", None),
        ] {
            assert_eq!(build_of(line), build.map(|id| (Builder::Buildah, id)), "{line}");
        }
    }

    #[test]
    fn only_a_group_where_no_container_makes_one_is_a_builds_of_buildkit() {
        const ID: &str = "jvifp9a6b1lxa1kuw8bwfcovf";
        const CONTAINER: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        for groups in [
            "8:pids:/docker/buildkit/{ID}",
            "0::/docker/buildkit/{ID}",
            "0::/docker/buildkit/{ID}/below",
            "0::/buildkit/{ID}",
            "0::/buildkit/buildkit/{ID}",
            "0::/system.slice/system.slice:docker:{ID}",
            "0::/system.slice/builds.slice:docker:{ID}/below",
            "4:memory:/system.slice/docker.service/system.slice:docker:{ID}",
            "0::/system.slice/system.slice:buildkit:{ID}",
            "0::/system.slice/buildkit-{ID}.scope",
        ] {
            let line = groups.replace("{ID}", ID);
            assert_eq!(build_of(&line), Some((Builder::BuildKit, ID)), "{line}");
            // A container whose parent a person has chosen, and what is no id at all.
            for other in [CONTAINER, "", &ID[1..], "Jvifp9a6b1lxa1kuw8bwfcovf", "jvifp9a6b1lxa1kuw8bwfc.vf"] {
                let line = groups.replace("{ID}", other);
                assert_eq!(build_of(&line), None, "{line}");
            }
        }
        for forged in [
            "0::/docker/{CONTAINER}/docker/buildkit/{ID}",
            "0::/docker/{CONTAINER}/buildkit/{ID}",
            "0::/docker/{CONTAINER}/system.slice:docker:{ID}",
            "0::/docker/buildx/{CONTAINER}/buildkit/{ID}",
            "0::/libpod_parent/libpod-{CONTAINER}/buildkit/{ID}",
            "0::/system.slice/docker-{CONTAINER}.scope/buildkit/{ID}",
            "0::/system.slice/docker-{CONTAINER}.scope/system.slice/system.slice:docker:{ID}",
            "0::/system.slice/docker-{CONTAINER}.scope/buildkit-{ID}.scope",
            "0::/system.slice/docker-{ID}.scope",
            "0::/system.slice/podman.service/system.slice:docker:{ID}",
            "0::/kubepods/burstable/pod1/{CONTAINER}/buildkit/{ID}",
            "0::/user.slice/user-1000.slice/user@1000.service/buildkit/{ID}",
            "0::/user.slice/system.slice:docker:{ID}",
            "0::/system.slice/system.slice:other:{ID}",
            "0::/system.slice/system:docker:{ID}",
            "0::/lxc/buildkit/{ID}",
            "0::/../docker/buildkit/{ID}",
        ] {
            let line = forged.replace("{CONTAINER}", CONTAINER).replace("{ID}", ID);
            assert_eq!(build_of(&line), None, "{line}");
        }
    }
}
