//! `portreeve dev`: hub, enforcement point and a sample service in one process.
//!
//! The parts are those of production, started from configuration files like those of
//! production and talking gRPC; only the issuer's private key is here, and only here.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use tokio_util::sync::CancellationToken;

use crate::app;
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::print::Printer;
use crate::config;

mod seed;
mod upstream;

/// Arguments of `dev`.
#[derive(Args, Clone, Debug)]
pub struct DevArgs {
    /// Where state is kept; without it, in a folder that is removed at the end.
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Added to every port.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(..=50_000))]
    pub port_offset: u16,
}

const HUB: &str = include_str!("../../deploy/dev/hub.yaml");
const PROXY: &str = include_str!("../../deploy/dev/proxy.yaml");
/// Longest wait for the first state, in seconds.
const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// Ports before the offset, by the name that the configuration files use.
const PORTS: [(&str, u16); 8] = [
    ("PROXY_PORT", 7400),
    ("EXT_AUTHZ_PORT", 7401),
    ("CHECKS_PORT", 7402),
    ("ADMIN_PORT", 7403),
    ("METRICS_PORT", 7404),
    ("STATE_PORT", 7410),
    ("API_PORT", 7411),
    ("UPSTREAM_PORT", 7420),
];

/// Where everything of one run is.
struct Place {
    folder: PathBuf,
    temporary: bool,
    offset: u16,
}

impl Place {
    fn new(args: DevArgs) -> Result<Self, Failure> {
        let temporary = args.data.is_none();
        let folder = match args.data {
            Some(folder) => folder,
            None => {
                let random = app::random::bytes::<6>().map_err(|e| Failure::failed(e.to_string()))?;
                let suffix: String = random.iter().map(|b| format!("{b:02x}")).collect();
                std::env::temp_dir().join(format!("portreeve-dev-{suffix}"))
            }
        };
        app::data_folder(&folder)
            .map_err(|e| Failure::failed(format!("cannot make the data folder {}: {e}", folder.display())))?;
        let folder = folder.canonicalize()?;
        Ok(Self { folder, temporary, offset: args.port_offset })
    }

    fn address(&self, name: &str) -> SocketAddr {
        let port = PORTS.iter().find(|(known, _)| *known == name).map_or(0, |(_, port)| *port);
        (Ipv4Addr::LOCALHOST, port + self.offset).into()
    }

    fn variables(&self) -> BTreeMap<String, String> {
        let ports = PORTS.iter().map(|(name, port)| ((*name).to_owned(), (port + self.offset).to_string()));
        ports.chain([("DATA_DIR".to_owned(), self.folder.display().to_string())]).collect()
    }

    /// Writes a configuration file where it can be read, and reads it as a role would.
    fn written(&self, name: &str, text: &str) -> Result<PathBuf, Failure> {
        let path = self.folder.join(name);
        std::fs::write(&path, text)?;
        Ok(path)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.temporary {
            // A folder that cannot be removed is only litter.
            std::fs::remove_dir_all(&self.folder).unwrap_or_default();
        }
    }
}

/// Runs everything until it is told to stop.
///
/// # Errors
/// A [`Failure`] when a part cannot start: the message names it.
pub async fn run(args: DevArgs, out: &mut Printer<'_>) -> Result<(), Failure> {
    let place = Place::new(args)?;
    let variables = place.variables();
    let lookup = |name: &str| variables.get(name).cloned();
    let environment = config::Environment { host_name: "dev", cores: 1, variables: &lookup };
    let level =
        app::start_logging(&config::Log { format: config::LogFormat::Text, level: config::LogLevel::Warn })?;

    let file = place.written("hub.yaml", HUB)?;
    let hub = config::load_hub(&file, &environment)?;
    let file = place.written("proxy.yaml", PROXY)?;
    let proxy = config::load_proxy(&file, &environment)?;

    let signals = app::stop_signal()?;
    let stop_upstream = CancellationToken::new();
    let address = place.address("UPSTREAM_PORT");
    let listener = upstream::bind(address)
        .await
        .map_err(|e| Failure::failed(format!("demo service: cannot listen on {address}: {e}")))?;
    let service = tokio::spawn(upstream::serve(listener, stop_upstream.clone()));

    let (key_file, issuer) = seed::issuer(&place.folder)?;
    let hub = app::hub::start(&hub.config, app::hub::Operations::Shared).await?;
    let client = Client::new(&format!("http://{}", place.address("API_PORT")), "the hub of this process")?
        .with_token_file(&place.folder.join("admin.token"))?;
    seed::apply(&client, &place.folder, &issuer).await?;
    seed::join(&client, &place.folder).await?;
    let proxy = app::proxy::start(&proxy.config, Some(level))?;
    if !proxy.wait_ready(READY_TIMEOUT).await {
        return Err(Failure::failed("the enforcement point got no state from the hub within 10 s"));
    }
    out.line(banner(&place, &key_file)?)?;

    tokio::select! {
        () = signals => {}
        () = proxy.ended() => {}
        () = hub.ended() => {}
    }
    out.note("stopping: open requests are finished first");
    proxy.stop().await?;
    hub.stop().await?;
    stop_upstream.cancel();
    service.await.map_err(|e| Failure::failed(e.to_string()))??;
    Ok(())
}

fn banner(place: &Place, key_file: &Path) -> Result<String, Failure> {
    let binary = quoted(&std::env::current_exe()?);
    let url = |name| format!("http://{}", place.address(name));
    let (proxy, hub) = (url("PROXY_PORT"), url("API_PORT"));
    let key_file = quoted(key_file);
    let token_file = quoted(&place.folder.join("admin.token"));
    let kept = if place.temporary { " (removed at the end; --data DIR keeps it)" } else { "" };
    let health = url("METRICS_PORT");
    let admin = url("ADMIN_PORT");
    let (ext_authz, stream) = (place.address("EXT_AUTHZ_PORT"), place.address("STATE_PORT"));
    let folder = place.folder.display();
    Ok(format!(
        "\
portreeve is ready.

  proxy      {proxy}   to the demo service {upstream}
  ext_authz  {ext_authz} (gRPC, for Envoy)
  admin      {admin}
  health     {health}/readyz   {health}/metrics
  hub        {hub}   state stream {stream}
  data       {folder}{kept}

Mint a token for the identity `ledger`:
  TOKEN=$({binary} token mint --identity ledger --key-file {key_file})

Call, and be allowed:
  curl -i -H \"Authorization: Bearer $TOKEN\" {proxy}/orders/1

Call, and be refused (it may read orders, not write them):
  curl -i -X POST -H \"Authorization: Bearer $TOKEN\" {proxy}/orders

Revoke it, and wait until that is in force everywhere:
  {binary} revoke identity ledger --reason test --wait --hub {hub} --token-file {token_file} --tenant demo

Call again with the same token, and be refused:
  curl -i -H \"Authorization: Bearer $TOKEN\" {proxy}/orders/1

Every decision is a line in {folder}/decisions.jsonl. Ctrl-C ends it.",
        upstream = url("UPSTREAM_PORT"),
    ))
}

/// A path as a shell reads it back.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}
