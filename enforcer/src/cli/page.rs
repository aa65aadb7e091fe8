//! `docs/cli.md`: the command line as a page, made from what clap knows of it.
//!
//! Input: the commands and their help texts. Output: Markdown. The test compares it with the page in the repository, or
//! writes the page if `ENFORCER_WRITE_DOCS` is set (`cargo xtask docs`).

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use clap::builder::StyledStr;
use clap::{Arg, Command, CommandFactory as _};

use super::Cli;

const HEAD: &str = "# Command line

<!-- Generated from the help texts in enforcer/src/cli by `cargo xtask docs`. A test compares both. -->

This page shows what `enforcer --help` and `enforcer COMMAND --help` say.
";

fn page() -> String {
    let mut cli = Cli::command();
    cli.build();
    let mut page = HEAD.to_owned();
    section(&mut page, &mut cli, false);
    for command in cli.get_subcommands_mut().filter(|command| command.get_name() != "help") {
        section(&mut page, command, true);
    }
    page
}

/// One command. `sub`: the options that every command has are described at `enforcer` alone.
fn section(page: &mut String, command: &mut Command, sub: bool) {
    let name = command.get_bin_name().unwrap_or(command.get_name()).to_owned();
    let usage = command.render_usage().to_string();
    let about = text(command.get_long_about().or(command.get_about()));
    write!(page, "\n## `{name}`\n\n{about}\n\n```text\n{}\n```\n", usage.trim()).unwrap();
    if !sub {
        page.push_str("\nCommands:\n\n");
        for command in command.get_subcommands().filter(|command| command.get_name() != "help") {
            let name = command.get_name();
            writeln!(page, "- [`{name}`](#enforcer-{name}): {}.", text(command.get_about())).unwrap();
        }
    }
    let described = |arg: &&Arg| !sub || (!arg.is_global_set() && arg.get_id() != "help" && arg.get_id() != "version");
    for (title, positional) in [("Arguments", true), ("Options", false)] {
        let args: Vec<&Arg> =
            command.get_arguments().filter(described).filter(|arg| arg.is_positional() == positional).collect();
        if !args.is_empty() {
            write!(page, "\n{title}:\n\n").unwrap();
            for arg in args {
                argument(page, arg);
            }
        }
    }
    if let Some(after) = command.get_after_long_help() {
        write!(page, "\n```text\n{after}\n```\n").unwrap();
    }
}

fn argument(page: &mut String, arg: &Arg) {
    let mut names: Vec<String> = arg.get_short().iter().map(|short| format!("-{short}")).collect();
    names.extend(arg.get_long().map(|long| format!("--{long}")));
    let takes_values = arg.get_action().takes_values();
    let mut spelling = names.join(", ");
    if takes_values {
        let values = arg.get_value_names().unwrap_or_default();
        for value in values {
            write!(spelling, " <{value}>").unwrap();
        }
    }
    let help = text(arg.get_long_help().or(arg.get_help())).replace("\n\n", "\n\n  ");
    writeln!(page, "- `{}`: {}", spelling.trim(), sentence(&help)).unwrap();
    if takes_values && !arg.is_hide_default_value_set() && !arg.get_default_values().is_empty() {
        let values: Vec<String> =
            arg.get_default_values().iter().map(|value| format!("`{}`", value.display())).collect();
        writeln!(page, "  Default: {}.", values.join(", ")).unwrap();
    }
    let possible = if takes_values { arg.get_possible_values() } else { Vec::new() };
    if possible.iter().any(|value| value.get_help().is_some()) {
        for value in possible {
            writeln!(page, "  - `{}`: {}", value.get_name(), sentence(&text(value.get_help()))).unwrap();
        }
    } else if !possible.is_empty() {
        let names: Vec<String> = possible.iter().map(|value| format!("`{}`", value.get_name())).collect();
        writeln!(page, "  Values: {}.", names.join(", ")).unwrap();
    }
}

fn text(text: Option<&StyledStr>) -> String {
    text.map(ToString::to_string).unwrap_or_default()
}

/// With the full stop that clap takes from a text of one paragraph.
fn sentence(text: &str) -> String {
    if text.ends_with(['.', ']', ')']) { text.to_owned() } else { format!("{text}.") }
}

#[test]
fn the_page_says_what_help_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cli.md");
    let page = page();
    if std::env::var_os("ENFORCER_WRITE_DOCS").is_some() {
        fs::write(&path, &page).unwrap();
    }
    let shown = fs::read_to_string(&path).unwrap_or_default();
    let differs = shown.lines().zip(page.lines()).enumerate().find(|(_, (shown, made))| shown != made);
    assert!(
        shown == page,
        "docs/cli.md is not what the help texts say (first difference: {differs:?}): run `cargo xtask docs` and commit \
         the page"
    );
}
