//! What a machine needs besides Rust: the one table of packages, each with the reason. Read by `setup::plan`.

/// Which commands need a thing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Need {
    /// To build the bpf object.
    Build,
    /// To run the checks.
    Check,
    /// To load programs into the kernel.
    Load,
    /// To run the tests that need privilege.
    Test,
    /// To build and start a cluster, beside what the tests need.
    Cluster,
}

/// How to see that a package is there without asking the package manager, which is slow and differs elsewhere.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sign {
    /// A program on PATH or in a directory for administrators.
    Program(&'static str),
    /// A file by its whole path.
    File(&'static str),
}

/// A Debian package.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tool {
    pub(crate) package: &'static str,
    pub(crate) sign: Sign,
    pub(crate) need: Need,
    pub(crate) reason: &'static str,
}

const fn tool(need: Need, package: &'static str, sign: Sign, reason: &'static str) -> Tool {
    Tool { package, sign, need, reason }
}

/// Packages that every machine needs, whichever bpf compiler it has. A C compiler is not among them: without one cargo
/// could not have built this program.
pub(crate) const TOOLS: &[Tool] = &[
    tool(Need::Build, "llvm-22-dev", Sign::File("/usr/lib/llvm-22/bin/llvm-config"), "bpf-linker is built against it"),
    tool(Need::Test, "aardvark-dns", Sign::File("/usr/lib/podman/aardvark-dns"), "names in podman's networks"),
    tool(Need::Test, "bpftool", Sign::Program("bpftool"), "detaches links behind the daemon's back"),
    tool(Need::Test, "busybox-static", Sign::Program("busybox"), "the programs inside the test containers"),
    tool(Need::Test, "docker.io", Sign::Program("dockerd"), "real containers of Docker"),
    tool(Need::Test, "iproute2", Sign::Program("ip"), "network namespaces and veths of the tests"),
    tool(Need::Test, "iptables", Sign::Program("iptables"), "netavark's rules"),
    tool(
        Need::Test,
        "netavark",
        Sign::File("/usr/lib/podman/netavark"),
        "podman's bridge networks, a veth a container",
    ),
    tool(Need::Test, "nftables", Sign::Program("nft"), "tests that look at the host's own packet filter"),
    tool(Need::Test, "podman", Sign::Program("podman"), "real containers and the Docker-compatible API"),
    tool(Need::Test, "procps", Sign::Program("ps"), "tests that look for processes left behind"),
    tool(
        Need::Test,
        "python3-prometheus-client",
        Sign::File("/usr/lib/python3/dist-packages/prometheus_client/openmetrics/parser.py"),
        "reads the daemon's metrics as Prometheus does",
    ),
    tool(Need::Test, "runc", Sign::Program("runc"), "podman starts containers with it"),
    tool(Need::Test, "strace", Sign::Program("strace"), "kills the daemon at each of its system calls"),
    tool(Need::Cluster, "containerd", Sign::Program("containerd"), "the container runtime of the test cluster's nodes"),
    tool(
        Need::Cluster,
        "containernetworking-plugins",
        Sign::File("/usr/lib/cni/ptp"),
        "the links of the test cluster's pods",
    ),
    tool(Need::Cluster, "openssl", Sign::Program("openssl"), "the test cluster's certificates"),
];

/// What installs Go, needed where none is new enough.
pub(crate) const GO: &[Tool] =
    &[tool(Need::Cluster, "python3-pip", Sign::Program("pip3"), "installs Go, of which Debian's is too old")];

/// Debian's compiler for the bpf target, needed where no nightly with rust-src is.
pub(crate) const COMPILER: &[Tool] = &[
    tool(Need::Build, "cargo-web", Sign::File("/usr/bin/cargo"), "builds the bpf programs"),
    tool(
        Need::Build,
        "rust-web-src",
        Sign::File("/usr/lib/rustlib/src/rust"),
        "`core` for the bpf target is built from it",
    ),
    tool(Need::Build, "rustc-web", Sign::File("/usr/bin/rustc"), "compiles the bpf programs"),
    tool(Need::Check, "rust-web-clippy", Sign::File("/usr/bin/clippy-driver"), "lints the bpf programs"),
];
