//! How the database is reached.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tokio_postgres::config::{Config, Host, SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::fault::PlaceFaults;
use crate::hub::store::{FaultKind, StoreFault};

/// How the database is reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PostgresSettings {
    connection: Config,
    roots: Option<PathBuf>,
    pub(super) statement_max: Duration,
}

impl PostgresSettings {
    /// Hosts, database and credentials in `connection`. With `roots`, a PEM file of certificate
    /// authorities, the connection is TLS and the server's name is verified; without, it is in clear.
    pub const fn new(connection: Config, roots: Option<PathBuf>) -> Self {
        Self { connection, roots, statement_max: STATEMENT_MAX }
    }

    /// With another bound for what the server takes over one statement than 5 seconds: when it is over,
    /// and 3 seconds for the way, the database counts as out of reach. Making a connection has as long in
    /// all, 3 seconds for each host; reading a whole cell has a bound of its own.
    pub const fn with_statement_max(mut self, statement_max: Duration) -> Self {
        self.statement_max = statement_max;
        self
    }

    /// Where it is, for people: without the password.
    pub fn describe(&self) -> String {
        let connection = &self.connection;
        let ports = connection.get_ports();
        let hosts = connection.get_hosts().iter().enumerate().map(|(place, host)| {
            let port = ports.get(place).or(ports.first()).copied().unwrap_or(5432);
            match host {
                Host::Tcp(name) if name.contains(':') => format!("[{name}]:{port}"),
                Host::Tcp(name) => format!("{name}:{port}"),
                Host::Unix(path) => format!("{}:{port}", path.display()),
            }
        });
        let hosts = hosts.collect::<Vec<_>>().join(",");
        let user = connection.get_user().map(|user| format!("{user}@")).unwrap_or_default();
        format!("postgresql://{user}{hosts}/{}", connection.get_dbname().unwrap_or_default())
    }

    /// What the driver is given.
    pub(super) fn connection(&self) -> Config {
        let mut connection = self.connection.clone();
        connection
            .application_name("portreeve")
            .connect_timeout(CONNECT_TIMEOUT)
            .keepalives(true)
            .keepalives_idle(KEEPALIVE)
            .keepalives_interval(KEEPALIVE)
            .keepalives_retries(3)
            .tcp_user_timeout(SILENCE_MAX)
            .target_session_attrs(tokio_postgres::config::TargetSessionAttrs::ReadWrite)
            .ssl_mode(if self.roots.is_some() { SslMode::Require } else { SslMode::Disable });
        connection
    }

    pub(super) fn tls(&self, faults: &PlaceFaults) -> Result<Option<MakeRustlsConnect>, StoreFault> {
        let Some(file) = &self.roots else { return Ok(None) };
        let refuse = |what: &dyn std::fmt::Display| {
            faults
                .fault(FaultKind::Denied, format_args!("sslrootcert `{}`: {what}", file.display()))
                .with_remedy("name a PEM file of the authorities that vouch for the database's certificate")
        };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(file).map_err(|e| refuse(&e))? {
            let certificate = certificate.map_err(|e| refuse(&e))?;
            roots.add(certificate).map_err(|e| refuse(&e))?;
        }
        if roots.is_empty() {
            return Err(refuse(&"it holds no certificate"));
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| refuse(&e))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Some(MakeRustlsConnect::new(config)))
    }
}

const STATEMENT_MAX: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const KEEPALIVE: Duration = Duration::from_secs(2);
const SILENCE_MAX: Duration = Duration::from_secs(8);
