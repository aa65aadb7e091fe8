//! The page on Kubernetes takes a reader from pods to a denied connection: its commands run as they are written.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    thread::sleep,
    time::{Duration, Instant},
};

use enforcer_tests::{
    cluster::{BOUND, Cluster, said},
    podman::{
        shell::Shell,
        walk::{Step, prints, steps},
    },
};

use crate::deploy::root;

const SHOP: &str = "deploy/examples/shop.yaml";

/// Agents are ready on both nodes.
pub(crate) fn is_made_as_the_page_says(cluster: &Cluster) {
    // No node can pull: the image of the tests has the same program, and gets the name in the manifest.
    let manifest = fs::read_to_string(root().join(SHOP)).unwrap();
    let image = manifest.lines().find_map(|line| line.trim().strip_prefix("image: ")).unwrap();
    for node in ["node1", "node2"] {
        let tag = ["ctr", "--namespace", "k8s.io", "images", "tag", cluster.image().as_str().unwrap(), image];
        said(cluster.on(node, &tag));
    }
    let place = tempfile::tempdir().unwrap();
    let program = place.path().join("kubectl");
    let own = cluster.kubectl_command(&[]);
    let words = [own.get_program()].into_iter().chain(own.get_args());
    let words: Vec<String> = words.map(|word| format!("'{}'", word.to_string_lossy())).collect();
    fs::write(&program, format!("#!/bin/sh\nexec {} \"$@\"\n", words.join(" "))).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();

    let page = fs::read_to_string(root().join("docs/kubernetes.md")).unwrap();
    let steps = steps(&page, "Your first policy");
    assert!(steps.len() >= 10, "the section is not where it was: {steps:?}");
    let mut shell = Shell::at(root(), place.path());
    for step in &steps {
        let Step::Command { line, prints: shown, code } = step else { panic!("{step}: no file is written") };
        // A policy counts a moment after it is applied, and a denial is told up to a second later; a reader looks again.
        let looks_again = line.contains(" exec ");
        let end = Instant::now() + BOUND;
        loop {
            let (printed, ended) = shell.run(line);
            if ended == *code && prints(shown, &printed) {
                break;
            }
            let shown = shown.join("\n");
            assert!(
                looks_again && Instant::now() < end,
                "{step}\nended with {ended}; the page says {code} and\n{shown}"
            );
            sleep(Duration::from_millis(200));
        }
    }
}
