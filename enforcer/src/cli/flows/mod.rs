//! `enforcer flows`: prints a flow log for people.
//!
//! Input: a file in Hubble's envelope, written by Enforcer or by another program. Output: a line for each flow on stdout, and
//! a message on stderr for each line that cannot be read.

mod compact;
mod filter;
mod input;

use std::collections::VecDeque;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::PossibleValuesParser;
use clap::{Parser, ValueEnum};
use enforcer_common::verdict::REASONS;

use self::filter::{Filter, PartyFilter};
use self::input::{Input, Line};
use super::out;
use crate::flow::hubble::GetFlowsResponse;
use crate::flow::text::{json_escaped, printable};

/// Print a flow log for people.
///
/// Each line shows one denied flow: both ends by name, the reason, and the policy and line that decided.
#[derive(Debug, Parser)]
#[command(after_long_help = "\
Examples:
  enforcer flows /var/log/enforcer/flows.json
  enforcer flows --last 20 --follow flows.json
  enforcer flows --from shop/web --reason no-rule flows.json
  enforcer flows -o json - < flows.json | jq .flow.policy_log

If you give several filters, a flow must match all of them. If you give one filter several times,
a flow must match one of its values. Lines that report lost events are always printed. Times are
in UTC.

Exit codes: 0 Every line of the log was read.
            1 Some lines could not be read. A message on stderr names each of them.
            2 The log cannot be read, or the command line is wrong.")]
pub struct Args {
    /// Flow log to read; `-` means standard input.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Format in which flows are printed.
    #[arg(short, long, value_enum, default_value_t = Format::Compact)]
    pub output: Format,
    /// Print only the last N lines that pass the filters. With --follow, later lines are all printed.
    #[arg(long, value_name = "N")]
    pub last: Option<usize>,
    /// Keep waiting for new lines at the end of the log, and follow the log when it is rotated.
    #[arg(short, long)]
    pub follow: bool,
    /// Print only flows with this verdict.
    #[arg(long, value_name = "VERDICT", ignore_case = true, value_parser = PossibleValuesParser::new(filter::VERDICTS))]
    pub verdict: Vec<String>,
    /// Print only flows that were denied for this reason. docs/flow-log.md explains the reasons.
    #[arg(long, value_name = "REASON", value_parser = PossibleValuesParser::new(REASONS.iter().map(|row| row.1)))]
    pub reason: Vec<String>,
    /// Print only flows from this sender. NAMESPACE/NAME is one workload, NAMESPACE/ is every workload of that namespace,
    /// NAME is a workload of that name in any namespace. An IP address is also accepted.
    #[arg(long, value_name = "WORKLOAD")]
    pub from: Vec<PartyFilter>,
    /// Print only flows to this receiver, written as for --from.
    #[arg(long, value_name = "WORKLOAD")]
    pub to: Vec<PartyFilter>,
}

/// How flows are printed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Format {
    /// One line per flow for people.
    Compact,
    /// The log's own JSON, one object per line.
    Json,
    /// The same as json, under the name that Hubble's tools use.
    Jsonpb,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut out = BufWriter::new(io::stdout().lock());
    let printed =
        print(args, &mut out, &mut io::stderr()).and_then(|bad| out.flush().map(|()| bad).map_err(Failure::Output));
    Ok(exit_code(args, printed)?)
}

fn exit_code(args: &Args, printed: Result<u64, Failure>) -> io::Result<ExitCode> {
    match printed {
        Ok(0) => Ok(ExitCode::SUCCESS),
        Ok(_) => Ok(ExitCode::from(1)),
        // Whoever read this has enough.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        Err(Failure::Output(error)) => Err(error),
        Err(Failure::Input(error)) => {
            let file = args.file.to_string_lossy();
            out::note(&format!("error: cannot read {}: {error}", printable(&file)));
            Ok(ExitCode::from(2))
        }
    }
}

enum Failure {
    Input(io::Error),
    Output(io::Error),
}

/// Prints the log; the number of lines that could not be read.
fn print(args: &Args, out: &mut impl Write, messages: &mut impl Write) -> Result<u64, Failure> {
    let filter = Filter::new(args);
    let mut input = Input::open(&args.file).map_err(Failure::Input)?;
    let mut bad = 0;
    let mut held = args.last.map(|most| (most, VecDeque::new()));
    loop {
        while let Some((number, line)) = input.next(!args.follow).map_err(Failure::Input)? {
            match read(&line) {
                Ok(Some((text, response))) if filter.passes(&response) => {
                    let shown = show(args.output, text, &response);
                    match &mut held {
                        Some((most, lines)) => {
                            lines.push_back(shown);
                            if lines.len() > *most {
                                lines.pop_front();
                            }
                        }
                        None => writeln!(out, "{shown}").map_err(Failure::Output)?,
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    bad += 1;
                    let file = args.file.to_string_lossy();
                    writeln!(messages, "error: {}:{number}: {error}", printable(&file)).map_err(Failure::Output)?;
                }
            }
        }
        for shown in held.take().into_iter().flat_map(|(_, lines)| lines) {
            writeln!(out, "{shown}").map_err(Failure::Output)?;
        }
        if !args.follow || !input.can_grow() {
            return Ok(bad);
        }
        out.flush().map_err(Failure::Output)?;
        input.wait().map_err(Failure::Input)?;
    }
}

#[derive(Debug, thiserror::Error)]
enum InvalidLine {
    #[error("the line is longer than {} bytes", input::LINE_MOST)]
    TooLong,
    #[error("the line is not UTF-8")]
    NotUtf8,
    #[error("the line is not a record of a flow log: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the line is neither a flow nor a report of lost events")]
    Neither,
}

/// The text and meaning of a line; `None` for a blank one.
fn read(line: &Line) -> Result<Option<(&str, GetFlowsResponse)>, InvalidLine> {
    let bytes = match line {
        Line::Whole(bytes) => bytes,
        Line::TooLong => return Err(InvalidLine::TooLong),
    };
    let text = std::str::from_utf8(bytes).map_err(|_| InvalidLine::NotUtf8)?.trim();
    if text.is_empty() {
        return Ok(None);
    }
    let response: GetFlowsResponse = serde_json::from_str(text)?;
    if response.flow.is_none() && response.lost_events.is_none() {
        return Err(InvalidLine::Neither);
    }
    Ok(Some((text, response)))
}

fn show(format: Format, text: &str, response: &GetFlowsResponse) -> String {
    match format {
        Format::Compact => compact::line(response),
        Format::Json | Format::Jsonpb => json_escaped(text).into_owned(),
    }
}

#[cfg(test)]
mod tests;
