//! `cargo xtask render`. Input: the kustomization `deploy/base`, of which the definitions of our kinds are generated first. Output: what is the same in another form, and a test of tier 3
//! compares: `deploy/install.yaml`, one file for those who have no kustomization, and the chart's templates that differ from the
//! base by the namespace alone. The chart also gets the definitions of our kinds, which Helm wants in a place of their own.
//! `--show` renders anything else of `deploy`.

pub(crate) mod programs;

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::{
    cluster::{self, member},
    generate,
    workspace::Workspace,
};

const BASE: &str = "deploy/base";
const ALL: &str = "deploy/install.yaml";
const CHART: &str = "deploy/helm/enforcer";

/// Files of the base that are templates once the namespace is a value.
const TEMPLATES: [&str; 3] = ["access.yaml", "admission.yaml", "controller-access.yaml"];

const NAMESPACE: &str = "enforcer-system";
const ITS_VALUE: &str = "{{ .Values.namespace.name }}";
const HEAD: &str = "# Rendered from deploy/base by `cargo xtask render`, which a test compares: change the base.\n";

/// What stands between two objects.
const BETWEEN: &str = "\n---\n";

/// What to do with what is rendered.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Write nothing, and fail if a file is not what the base says.
    #[arg(long)]
    check: bool,
    /// Write nothing, and print what this kustomization, or this chart of Helm, renders to.
    #[arg(long, value_name = "DIRECTORY", conflicts_with = "check")]
    show: Option<PathBuf>,
    /// Write nothing, and run this script with the Lua of Argo CD.
    #[arg(long, value_name = "SCRIPT", conflicts_with_all = ["check", "show"])]
    lua: Option<PathBuf>,
    /// What `helm template` is told besides, for a chart.
    #[arg(last = true, requires = "show")]
    arguments: Vec<OsString>,
}

/// The command. It renders by the programs of the test cluster, so that everybody gets the same text.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    if let Some(directory) = &options.show {
        print!("{}", rendered(workspace, directory, &options.arguments)?);
        return Ok(());
    }
    if let Some(script) = &options.lua {
        let mut lua = Command::new(programs::ensure(workspace)?.join("glua"));
        lua.arg(script);
        print!("{}", member::output(lua)?);
        return Ok(());
    }
    if !options.check {
        // A test of tier 0 checks these.
        generate::run(workspace, generate::Options { check: false })?;
    }
    let base = workspace.root().join(BASE);
    let objects = rendered(workspace, &base, &[])?;
    let mut files =
        vec![(format!("{CHART}/crds/enforcer.yaml"), definitions(&objects)), (ALL.to_owned(), Some(objects))];
    for name in TEMPLATES {
        let file = base.join(name);
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        files.push((format!("{CHART}/templates/{name}"), Some(text.replace(NAMESPACE, ITS_VALUE))));
    }
    for (path, text) in files {
        let text = text.map(|text| format!("{HEAD}{text}"));
        let file = workspace.root().join(&path);
        if options.check {
            let shown = fs::read_to_string(&file).ok();
            ensure!(shown == text, "{path} is not what {BASE} says; run `cargo xtask render` and commit the file");
        } else if let Some(text) = text {
            fs::create_dir_all(file.parent().unwrap_or(&file))?;
            fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        }
    }
    Ok(())
}

fn rendered(workspace: &Workspace, directory: &Path, arguments: &[OsString]) -> Result<String> {
    if directory.join("Chart.yaml").exists() {
        let mut helm = Command::new(programs::ensure(workspace)?.join("helm"));
        // The name of the release is in no object.
        helm.args(["template", "--include-crds", "enforcer"]).arg(directory).args(arguments);
        return member::output(helm);
    }
    let mut kubectl = Command::new(cluster::kubectl_program(workspace)?);
    kubectl.arg("kustomize").arg(directory);
    member::output(kubectl)
}

/// The definitions of kinds among the objects, if there is one.
fn definitions(objects: &str) -> Option<String> {
    let objects = objects.trim_end().split(BETWEEN);
    let found: Vec<&str> =
        objects.filter(|object| object.lines().any(|line| line == "kind: CustomResourceDefinition")).collect();
    (!found.is_empty()).then(|| format!("{}\n", found.join(BETWEEN)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chart_gets_the_definitions_alone() {
        let other = "apiVersion: v1\nkind: ConfigMap\ndata:\n  a: |\n    kind: CustomResourceDefinition";
        let [first, second] =
            ["a", "b"].map(|name| format!("kind: CustomResourceDefinition\nmetadata:\n  name: {name}"));
        assert_eq!(definitions(other), None);
        let all = format!("{first}\n---\n{other}\n---\n{second}\n");
        assert_eq!(definitions(&all), Some(format!("{first}\n---\n{second}\n")));
    }
}
