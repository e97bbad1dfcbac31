//! The judge's notebook: what is wrong, what is weak, and the checks every section uses.

use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::Environment;
use crate::config::error::{Problem, Told, quoted};
use crate::config::key::Key;
use crate::config::raw::shared::{DurationText, SizeText};
use crate::config::tree::Node;
use crate::config::units::{DURATION_FORM, SIZE_FORM, parse_duration, parse_size, show_duration, show_size};
use crate::core::id::Name;

/// Collects what is wrong with a file and what weakens it.
pub(in crate::config) struct Check<'a> {
    file: &'a str,
    directory: &'a Path,
    root: &'a Node,
    pub(super) environment: &'a Environment<'a>,
    pub(in crate::config) problems: Vec<Problem>,
    pub(in crate::config) warnings: Vec<String>,
    addresses: Vec<(Key, SocketAddr)>,
}

/// What a name looks like.
const NAME_FORM: &str = "1 to 128 of `a-z`, `0-9`, `.`, `_`, `-`, with a letter or digit at both ends";

impl<'a> Check<'a> {
    pub(in crate::config) const fn new(
        file: &'a str,
        directory: &'a Path,
        root: &'a Node,
        environment: &'a Environment<'a>,
    ) -> Self {
        Self {
            file,
            directory,
            root,
            environment,
            problems: Vec::new(),
            warnings: Vec::new(),
            addresses: Vec::new(),
        }
    }

    /// Notes that what stands at `key` is wrong.
    pub(super) fn refuse(
        &mut self,
        key: &Key,
        found: impl Into<String>,
        expected: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let told = Told::new(found, expected, remedy);
        self.problems.push(Problem::new(self.file, self.root.locate(key), key.clone(), told));
    }

    /// Notes that what stands at `key` weakens what the proxy protects.
    pub(super) fn warn(&mut self, key: &Key, text: &str) {
        self.warnings.push(format!("{}:{}: {key}: {text}", self.file, self.root.locate(key)));
    }

    /// The line `key` stands on.
    pub(super) fn line(&self, key: &Key) -> usize {
        self.root.locate(key).line
    }

    /// A number within its bounds.
    pub(super) fn number<T>(&mut self, key: &Key, value: u64, bounds: RangeInclusive<T>) -> Option<T>
    where
        T: TryFrom<u64> + PartialOrd + Display,
    {
        let number = T::try_from(value).ok().filter(|number| bounds.contains(number));
        if number.is_none() {
            let expected = format!("{} to {}", bounds.start(), bounds.end());
            self.refuse(key, quoted(&value.to_string()), expected, "write a number within these bounds");
        }
        number
    }

    /// A duration within its bounds.
    pub(super) fn duration(
        &mut self,
        key: &Key,
        text: &DurationText,
        bounds: &RangeInclusive<Duration>,
    ) -> Option<Duration> {
        self.duration_or(key, &text.0, bounds, DURATION_FORM)
    }

    /// A duration within its bounds, where `form` is what may be written.
    pub(super) fn duration_or(
        &mut self,
        key: &Key,
        text: &str,
        bounds: &RangeInclusive<Duration>,
        form: &str,
    ) -> Option<Duration> {
        let Some(duration) = parse_duration(text) else {
            self.refuse(key, quoted(text), form, "write a whole number directly followed by its unit");
            return None;
        };
        if !bounds.contains(&duration) {
            let expected = format!("{} to {}", show_duration(*bounds.start()), show_duration(*bounds.end()));
            self.refuse(key, quoted(text), expected, "write a duration within these bounds");
            return None;
        }
        Some(duration)
    }

    /// A size in bytes within its bounds.
    pub(super) fn size(&mut self, key: &Key, text: &SizeText, bounds: &RangeInclusive<u64>) -> Option<u64> {
        let Some(bytes) = parse_size(&text.0) else {
            self.refuse(
                key,
                quoted(&text.0),
                SIZE_FORM,
                "write a whole number directly followed by its unit",
            );
            return None;
        };
        if !bounds.contains(&bytes) {
            let expected = format!("{} to {}", show_size(*bounds.start()), show_size(*bounds.end()));
            self.refuse(key, quoted(&text.0), expected, "write a size within these bounds");
            return None;
        }
        Some(bytes)
    }

    /// A name.
    pub(super) fn name(&mut self, key: &Key, text: &str) -> Option<Name> {
        let name = Name::parse(text).ok();
        if name.is_none() {
            self.refuse(key, quoted(text), NAME_FORM, "choose such a name");
        }
        name
    }

    /// A path: itself when absolute, else below the file's directory.
    pub(super) fn path(&mut self, key: &Key, text: &str) -> Option<PathBuf> {
        let directory = self.directory;
        self.path_below(key, text, directory)
    }

    /// A path: itself when absolute, else below `directory`.
    pub(super) fn path_below(&mut self, key: &Key, text: &str, directory: &Path) -> Option<PathBuf> {
        if text.is_empty() || text.contains('\0') {
            self.refuse(key, quoted(text), "a path", "name a file or directory");
            return None;
        }
        Some(directory.join(text))
    }

    /// An address to listen on, which no other listener of the file takes. Port 0 takes a free one.
    pub(super) fn address(&mut self, key: &Key, text: &str) -> Option<SocketAddr> {
        let Ok(address) = text.parse::<SocketAddr>() else {
            let remedy = match text.split_once(':') {
                Some(("", port)) => {
                    format!("write {} to listen on every address", quoted(&format!("0.0.0.0:{port}")))
                }
                Some(("localhost", port)) => format!("write {}", quoted(&format!("127.0.0.1:{port}"))),
                _ => "write an IP address and a port".to_owned(),
            };
            self.refuse(
                key,
                quoted(text),
                "an IP address and a port, such as `127.0.0.1:7400` or `[::1]:7400`",
                remedy,
            );
            return None;
        };
        let taken =
            self.addresses.iter().find(|(_, other)| collide(*other, address)).map(|(key, _)| key.clone());
        if let Some(other) = taken {
            let found =
                format!("{}, which {other} on line {} takes already", quoted(text), self.line(&other));
            self.refuse(key, found, "an address of its own", "choose another port");
        }
        self.addresses.push((key.clone(), address));
        Some(address)
    }

    /// An address to listen on that only this host reaches; `reason` says why it must be.
    pub(super) fn loopback(&mut self, key: &Key, text: &str, reason: &str) -> Option<SocketAddr> {
        let address = self.address(key, text)?;
        if !address.ip().to_canonical().is_loopback() {
            let loopback = quoted(&format!("127.0.0.1:{}", address.port()));
            let expected = format!("a loopback address, because {reason}");
            self.refuse(key, quoted(text), expected, format!("write {loopback}"));
            return None;
        }
        Some(address)
    }
}

/// Whether both cannot be listened on at once.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let (left, right) = (a.ip().to_canonical(), b.ip().to_canonical());
    let covers = |all: std::net::IpAddr, one: std::net::IpAddr| {
        all.is_unspecified() && (all.is_ipv6() || one.is_ipv4())
    };
    a.port() == b.port() && a.port() != 0 && (left == right || covers(left, right) || covers(right, left))
}
