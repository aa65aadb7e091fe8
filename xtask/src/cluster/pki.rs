//! Who may talk to whom: certificates, tokens, and the kubeconfig files that hold them.
//!
//! Input: the control plane's directory and the API server's addresses. Output: an authority, the API server's certificate,
//! a client certificate for the way to the kubelets, a key for service accounts, and a token for each user.

use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use serde_json::json;

use crate::cluster::{member, shape};

/// Users of the API server with a token, and their group.
const CONTROL_USERS: [(&str, &str); 4] = [(ADMIN, "system:masters"), (MANAGER, ""), (SCHEDULER, ""), (PROXY, "")];
pub(crate) const ADMIN: &str = "admin";
pub(crate) const MANAGER: &str = "system:kube-controller-manager";
pub(crate) const SCHEDULER: &str = "system:kube-scheduler";
pub(crate) const PROXY: &str = "system:kube-proxy";

/// Port of the API server.
pub(crate) const PORT: u16 = 6443;

/// The keys of one cluster.
#[derive(Debug)]
pub(crate) struct Keys {
    directory: PathBuf,
    server: String,
    /// What makes the tokens unknown to others.
    secret: String,
}

impl Keys {
    /// Makes all keys below `directory`. The first of `addresses` is not special; all stand in the certificate.
    pub(crate) fn create(directory: &Path, server: &str, addresses: &[String], nodes: &[String]) -> Result<Self> {
        let keys = Self {
            directory: directory.to_path_buf(),
            server: format!("https://{}:{PORT}", shape::host(server)),
            secret: random()?,
        };
        let names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"];
        let names = names.iter().map(|name| format!("DNS:{name}"));
        let names: Vec<String> = names.chain(addresses.iter().map(|address| format!("IP:{address}"))).collect();
        fs::write(keys.file("openssl.cnf"), configuration(&names))?;
        keys.certificate("ca", "/CN=enforcer-test-cluster", "authority")?;
        keys.certificate("apiserver", "/CN=kube-apiserver", "server")?;
        keys.certificate("kubelet-client", "/O=system:masters/CN=kube-apiserver-kubelet-client", "client")?;
        let mut run = Command::new("openssl");
        run.args(["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out"])
            .arg(keys.file("service-accounts.key"));
        member::output(run)?;
        let controls = CONTROL_USERS.iter().map(|(user, group)| keys.line(user, group));
        let nodes = nodes.iter().map(|node| keys.line(&node_user(node), "system:nodes"));
        fs::write(keys.file("tokens.csv"), controls.chain(nodes).collect::<String>())?;
        Ok(keys)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The authority signs itself, and then the others.
    fn certificate(&self, name: &str, subject: &str, section: &str) -> Result<()> {
        let mut run = Command::new("openssl");
        run.args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "3650",
        ]);
        run.args(["-subj", subject, "-extensions", section, "-config"]).arg(self.file("openssl.cnf"));
        if name != "ca" {
            run.arg("-CA").arg(self.file("ca.crt")).arg("-CAkey").arg(self.file("ca.key"));
        }
        run.arg("-keyout").arg(self.file(&format!("{name}.key"))).arg("-out").arg(self.file(&format!("{name}.crt")));
        member::output(run).map(drop)
    }

    /// A line of the API server's token file.
    fn line(&self, user: &str, group: &str) -> String {
        format!("{},{user},{user},\"{group}\"\n", self.token(user))
    }

    fn token(&self, user: &str) -> String {
        format!("{}.{}", user.replace(':', "-"), self.secret)
    }

    /// A kubeconfig for a user. `authority` is the path of the authority's certificate where the file is read.
    pub(crate) fn kubeconfig(&self, user: &str, authority: &Path) -> String {
        let text = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": self.server, "certificate-authority": authority}}],
            "users": [{"name": user, "user": {"token": self.token(user)}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": user}}],
            "current-context": "test",
        });
        // JSON is YAML.
        format!("{text:#}\n")
    }
}

/// The user that a kubelet is.
pub(crate) fn node_user(node: &str) -> String {
    format!("system:node:{node}")
}

fn configuration(names: &[String]) -> String {
    format!(
        "[req]\ndistinguished_name = subject\n[subject]\n\
         [authority]\nbasicConstraints = critical,CA:TRUE\nkeyUsage = critical,keyCertSign\nsubjectKeyIdentifier = hash\n\
         [server]\nbasicConstraints = critical,CA:FALSE\nextendedKeyUsage = serverAuth\nsubjectAltName = {}\n\
         [client]\nbasicConstraints = critical,CA:FALSE\nextendedKeyUsage = clientAuth\n",
        names.join(",")
    )
}

fn random() -> Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)).context("cannot read /dev/urandom")?;
    Ok(format!("{:032x}", u128::from_ne_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_has_a_token_of_its_own_that_the_kubeconfig_holds() {
        let keys = Keys { directory: "/k".into(), server: "https://[fd77::1]:6443".into(), secret: "0123".into() };
        assert_eq!(
            keys.line(&node_user("node1"), "system:nodes"),
            "system-node-node1.0123,system:node:node1,system:node:node1,\"system:nodes\"\n"
        );
        let text = keys.kubeconfig(&node_user("node1"), Path::new("/etc/kubernetes/ca.crt"));
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read["users"][0]["user"]["token"], "system-node-node1.0123");
        assert_eq!(read["clusters"][0]["cluster"]["server"], "https://[fd77::1]:6443");
    }

    #[test]
    fn no_leaf_is_an_authority() {
        let text = configuration(&["DNS:a".into(), "IP:10.0.0.1".into()]);
        assert_eq!(text.matches("CA:TRUE").count(), 1, "{text}");
        assert!(text.contains("subjectAltName = DNS:a,IP:10.0.0.1\n"), "{text}");
    }
}
