//! Traffic between pods that goes on until the test has seen enough. Input: a pod's node and address, and a script. Output: how
//! many lines the script has printed, one for each step, and whether it has ended.
//!
//! The scripts are run by the host's bash in the pod's network, because `kubectl exec` ends with the API server.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread::spawn,
};

use enforcer_tests::cluster::Cluster;

/// One connection for all requests; it ends with an error as soon as an answer is missing for a minute or wrong.
/// Arguments: the server's address, and what each request begins with.
pub(crate) const CONNECTION: &str = r#"
exec 3<>"/dev/tcp/$1/8080" || exit 2
for ((n = 1; ; n++)); do
  message=$2-$n
  printf 'GET /echo?msg=%s HTTP/1.1\r\nHost: db\r\n\r\n' "$message" >&3
  while IFS= read -r -t 60 line <&3 || exit 3; line=${line%$'\r'}; [ -n "$line" ]; do :; done
  IFS= read -r -t 60 -N ${#message} body <&3 || exit 4
  [ "$body" = "$message" ] || exit 5
  echo "$n"
  sleep 0.05
done
"#;

/// A connection for each request, which has to be answered. Arguments: as above.
pub(crate) const CONNECTIONS: &str = r#"
for ((n = 1; ; n++)); do
  ask="exec 3<>/dev/tcp/$1/8080 && printf 'GET /echo?msg=$2-$n HTTP/1.0\r\n\r\n' >&3 && grep -q $2-$n <&3"
  timeout 20 bash -c "$ask" || exit 3
  echo "$n"
  sleep 0.1
done
"#;

/// A datagram and a request over TCP in each step, whatever becomes of them. Arguments: as above.
pub(crate) const ATTEMPTS: &str = r#"
for ((n = 1; ; n++)); do
  echo "echo $2-udp-$n" 2>/dev/null >"/dev/udp/$1/8081"
  ask="exec 3<>/dev/tcp/$1/8080 && printf 'GET /echo?msg=$2-tcp-$n HTTP/1.0\r\n\r\n' >&3 && cat <&3"
  timeout 1 bash -c "$ask" >/dev/null 2>&1 &
  echo "$n"
  sleep 0.2
done
"#;

/// A command that goes on until the drop, and counts its lines.
pub(crate) struct Running {
    what: String,
    child: Child,
    lines: Arc<Mutex<usize>>,
}

impl Running {
    pub(crate) fn start(what: String, mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = Arc::new(Mutex::new(0));
        let (output, counted) = (BufReader::new(child.stdout.take().unwrap()), Arc::clone(&lines));
        spawn(move || output.lines().map_while(Result::ok).for_each(|_| *counted.lock().unwrap() += 1));
        Self { what, child, lines }
    }

    /// A script in the network of the pod with the address `from`.
    pub(crate) fn script(cluster: &Cluster, node: &str, from: &str, script: &str, to: &str, tag: &str) -> Self {
        let command = cluster.in_pod(node, from, &["bash", "-c", script, "traffic", to, tag]);
        Self::start(format!("{tag} from {from} to {to}"), command)
    }

    /// Lines so far.
    pub(crate) fn lines(&self) -> usize {
        *self.lines.lock().unwrap()
    }

    /// Fails if it has ended.
    pub(crate) fn assert_goes_on(&mut self) {
        let ended = self.child.try_wait().unwrap();
        assert!(ended.is_none(), "{} has ended after {} lines: {ended:?}", self.what, self.lines());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only if it has ended. What it has started itself ends when it prints the next line.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
