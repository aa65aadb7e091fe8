//! Containers that share a network namespace: a pod, a pod of `kube play`, and a sidecar as compose starts it.

use enforcer_tests::podman::container::{Container, OTHER_PORT, Outcome, PORT, SERVE};
use enforcer_tests::podman::{Host, IMAGE};

use super::{DB, OTHER, SHOP, WEB, assert_enforced, assert_open, container, host, policy, wait_until_isolated};

#[test]
fn a_pod_of_two_is_one_workload_with_the_labels_of_each() {
    let mut host = host();
    let pod_network = host.join("net", ["10.233.0.10", "fd33::10"]);
    let infra = ["--infra-name", "pod-infra", "--infra-image", IMAGE];
    let create = ["pod", "create", "--name", "pod", &pod_network];
    host.podman(&[&create[..], &infra, &["--infra-command", "sleep 1000"]].concat());
    let sidecar = ["run", "-d", "--name", "sidecar", "--pod", "pod", "--label", "side=log"];
    host.podman(&[&sidecar[..], &SHOP, &[IMAGE, "sleep", "1000"]].concat());
    let front = [&["--pod", "pod"], &DB[..]].concat();
    let front = Container::run(&host, "front", &front, &["10.233.0.10", "fd33::10"]);
    front.wait_until_it_serves(&mut host);
    let web = container(&mut host, "web", 11, &WEB);
    let other = container(&mut host, "other", 12, &OTHER);
    assert_open(&host, &front, &[&web, &other]);

    host.start(&["shop/pod", "shop/web", "shop/other"]);
    assert_enforced(&host, &front, &web, &other);
    let record = host.wait_record("the denied flow", |record| record.from == "shop/other" && record.to == "shop/pod");
    let labels = record.line["flow"]["destination"]["labels"].to_string();
    for container in ["front", "sidecar"] {
        assert!(labels.contains(&format!("k8s:enforcer.dev/container={container}")), "{labels}");
    }
    // The sidecar's labels select the pod too, but not together with those of the front.
    let selecting = |labels: &str| policy("shop").replace("workloads: {app: db}", &format!("workloads: {{{labels}}}"));
    host.policy("db.yaml", &selecting("app: db, side: log"));
    wait_until_isolated(&mut host, "shop/pod", 0);
    assert_eq!(other.ask(&host, &front, PORT), Outcome::Answered, "no container has both labels");
    host.policy("db.yaml", &selecting("side: log"));
    wait_until_isolated(&mut host, "shop/pod", 1);
    assert_enforced(&host, &front, &web, &other);

    host.purge();
    assert_open(&host, &front, &[&web, &other]);
}

/// D14, b07: what `network_mode: "service:vpn"` of a compose file starts, with the labels that compose gives.
#[test]
fn a_sidecar_in_the_network_of_another_container_keeps_labels_of_its_own() {
    let compose = |service: &str| {
        ["com.docker.compose.project=shop".to_owned(), format!("com.docker.compose.service={service}")]
            .into_iter()
            .chain([format!("maintainer={service}")])
            .flat_map(|label| ["--label".to_owned(), label])
            .collect::<Vec<String>>()
    };
    let joined = |network: &str, service: &str, label: &str| {
        let mut options = compose(service);
        options.extend([format!("--network=container:{network}"), "--label".to_owned(), label.to_owned()]);
        options
    };
    let mut host = host();
    let sleep = |host: &Host, name: &str, options: &[String]| {
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let head = ["run", "-d", "--name", name];
        host.podman(&[&head[..], &options, &[IMAGE, "sleep", "1000"]].concat());
    };
    let owner = |host: &Host, name: &str, address: [&str; 2]| {
        let mut options = compose(name);
        options.push(host.join("net", address));
        sleep(host, name, &options);
    };
    let addresses = ["10.233.0.10", "fd33::10"];
    owner(&host, "vpn", addresses);
    let db = joined("vpn", "db", "app=db");
    let db = Container::run(&host, "db", &db.iter().map(String::as_str).collect::<Vec<_>>(), &addresses);
    db.wait_until_it_serves(&mut host);
    owner(&host, "tunnel", ["10.233.0.11", "fd33::11"]);
    let web = joined("tunnel", "web", "app=web");
    let web =
        Container::run(&host, "web", &web.iter().map(String::as_str).collect::<Vec<_>>(), &["10.233.0.11", "fd33::11"]);
    web.wait_until_it_serves(&mut host);
    let other = container(&mut host, "other", 12, &OTHER);
    assert_open(&host, &db, &[&web, &other]);

    host.start(&["shop/vpn", "shop/tunnel", "shop/other"]);
    assert_enforced(&host, &db, &web, &other);
    host.wait_record("the sidecar is named by the owner of its network", |record| {
        record.from == "shop/other" && record.to == "shop/vpn" && record.policies == ["shop/db db.yaml:4"]
    });
    let (status, code) = host.status();
    assert_eq!(code, 0, "{status:#}");

    host.purge();
    assert_open(&host, &db, &[&web, &other]);
}

/// b09: `kube play` gives the pod its own name. podman forgets the names of ports, so a label says them.
#[test]
fn a_pod_of_kube_play_has_its_own_name_and_named_ports() {
    let mut host = host();
    let pod = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: shop, labels: {{app: db, enforcer.dev/namespace: shop, \
         enforcer.dev/port.http: 8080-tcp}}}}\nspec:\n  containers:\n    - name: web\n      image: {IMAGE}\n      \
         imagePullPolicy: Never\n      \
         ports: [{{name: http, containerPort: 8080}}, {{name: lost, containerPort: 8081}}]\n      \
         env: [{{name: NAME, value: shop-web}}, {{name: PATH, value: /bin}}]\n      command: [\"/bin/sh\", \"-c\", '{}']\n    \
         - {{name: side, image: {IMAGE}, imagePullPolicy: Never, command: [\"/bin/sleep\", \"1000\"]}}\n",
        SERVE.replace('\'', "''"),
    );
    std::fs::write(host.file("pod.yaml"), pod).unwrap();
    let network = host.network("net");
    let file = host.file("pod.yaml");
    host.podman(&[
        "kube",
        "play",
        "--network",
        &format!("{network}:ip=10.233.0.10,ip6=fd33::10"),
        file.to_str().unwrap(),
    ]);
    let served = Container::known("shop-web", &["10.233.0.10", "fd33::10"]);
    served.wait_until_it_serves(&mut host);
    let web = container(&mut host, "web", 11, &WEB);
    let other = container(&mut host, "other", 12, &OTHER);
    assert_open(&host, &served, &[&web, &other]);
    let named = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: db, namespace: shop}\nspec:\n  \
        podSelector: {matchLabels: {app: db}}\n  policyTypes: [Ingress]\n  ingress:\n    \
        - from: [{podSelector: {matchLabels: {app: web}}}]\n      ports: [{port: http}]\n";
    host.policy("db.yaml", named);
    host.start(&["shop/shop", "shop/web", "shop/other"]);
    assert_enforced(&host, &served, &web, &other);

    // The name of the other port stands in the manifest alone. It matches nothing, and `status` says what to do.
    host.policy("db.yaml", &named.replace("port: http", "port: lost"));
    host.until("the name that nobody has is told", |host| {
        let note = "has a port named `lost`; name the port in the inventory, or by a container label";
        host.status().0["report"]["no_ops"].to_string().contains(note)
    });
    assert_eq!(web.ask(&host, &served, OTHER_PORT), Outcome::Silence, "podman does not know the name");
    host.purge();
    assert_open(&host, &served, &[&web, &other]);
}
