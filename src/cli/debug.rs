//! `portreeve debug`: the proxy's own parts, driven by hand.

use std::fs::File;
use std::io::{BufRead, BufReader, Read as _, stdin};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::cli::failure::Failure;
use crate::cli::print::Printer;
use crate::core::credential::{Algorithm, Jws, KeySet, signer};

/// Arguments of `debug`.
#[derive(Args, Clone, Debug)]
pub struct DebugArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: DebugAction,
}

/// What can be driven by hand.
#[derive(Subcommand, Clone, Debug)]
pub enum DebugAction {
    /// Say of signatures whether the proxy takes them: `accept` or `reject`, a line each.
    ///
    /// Each line of input is a JSON object: `jwk`, a key or a key set, and `jws`, a compact JWS. Every
    /// algorithm that is known at all is allowed; claims are not looked at.
    VerifyJws {
        /// The file; `-` for standard input.
        #[arg(default_value = "-")]
        file: PathBuf,
    },
}

/// Does what `args` ask.
///
/// # Errors
/// A [`Failure`] that names the line that cannot be read.
pub fn run(args: DebugArgs, out: &mut Printer<'_>) -> Result<(), Failure> {
    let DebugAction::VerifyJws { file } = args.action;
    let mut input: Box<dyn BufRead> = if file.as_os_str() == "-" {
        Box::new(stdin().lock())
    } else {
        let opened = File::open(&file)
            .map_err(|error| Failure::input(format!("cannot read `{}`: {error}", file.display())))?;
        Box::new(BufReader::new(opened))
    };
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let read = (&mut input).take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
        if read.map_err(|error| Failure::input(format!("line {number}: {error}")))? == 0 {
            break;
        }
        let case: Case<'_> = serde_json::from_slice(&line)
            .map_err(|error| Failure::input(format!("line {number}: {error}; expected `jwk` and `jws`")))?;
        out.line(if case.is_accepted() { "accept" } else { "reject" })?;
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case<'a> {
    /// As it stands there: the strict parser must see what a lenient one would mend.
    #[serde(borrow)]
    jwk: &'a RawValue,
    jws: String,
}

impl Case<'_> {
    fn is_accepted(&self) -> bool {
        let given = self.jwk.get();
        let is_set = serde_json::from_str::<serde_json::Value>(given).is_ok_and(|v| v.get("keys").is_some());
        let set = if is_set { given.to_owned() } else { format!(r#"{{"keys":[{given}]}}"#) };
        let keys = KeySet::parse(set.as_bytes(), &Algorithm::ALL);
        Jws::parse(self.jws.as_bytes()).is_ok_and(|jws| signer(&jws, &keys, &Algorithm::ALL).is_some())
    }
}

const LINE_BYTES_MAX: u64 = 1 << 20;
