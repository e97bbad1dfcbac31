//! Which hub a command talks to, for whom, and with which token.

use std::path::PathBuf;

use clap::Args;

use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::print::Printer;
use crate::core::id::Name;

/// Arguments of every command that talks to the hub about a tenant's records.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Hub")]
pub struct HubTarget {
    /// The hub.
    #[command(flatten)]
    pub address: HubAddress,
    /// The tenant.
    #[arg(
        long,
        global = true,
        env = "PORTREEVE_TENANT",
        value_name = "NAME",
        default_value = "default",
        value_parser = Name::parse
    )]
    pub tenant: Name,
}

/// Arguments of every command that talks to the hub.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Hub")]
pub struct HubAddress {
    /// The hub's interface.
    #[arg(
        long,
        global = true,
        env = "PORTREEVE_HUB",
        value_name = "URL",
        default_value = "http://127.0.0.1:7411"
    )]
    pub hub: String,
    /// A file with the token for the hub's interface.
    #[arg(long, global = true, env = "PORTREEVE_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

/// What a command on the hub works with.
#[derive(Debug)]
pub struct Context<'c, 'w, T = Name> {
    /// The hub.
    pub client: Client,
    /// Whose records; nobody's where the command is about the hub itself.
    pub tenant: T,
    /// Where results go.
    pub out: &'c mut Printer<'w>,
}

impl HubTarget {
    /// Makes the client; warns when a token would cross a network unprotected.
    ///
    /// # Errors
    /// A [`Failure`] when the address or the token file is no good.
    pub fn context<'c, 'w>(self, out: &'c mut Printer<'w>) -> Result<Context<'c, 'w>, Failure> {
        let Context { client, out, .. } = self.address.context(out)?;
        Ok(Context { client, tenant: self.tenant, out })
    }
}

impl HubAddress {
    /// Makes the client; warns when a token would cross a network unprotected.
    ///
    /// # Errors
    /// A [`Failure`] when the address or the token file is no good.
    pub fn context<'c, 'w>(self, out: &'c mut Printer<'w>) -> Result<Context<'c, 'w, ()>, Failure> {
        let mut client = Client::new(&self.hub, "is the hub running? --hub, PORTREEVE_HUB")?;
        if let Some(file) = &self.token_file {
            client = client.with_token_file(file)?;
            if !client.is_local() {
                out.note("warning: the token is sent without encryption to another machine");
            }
        }
        Ok(Context { client, tenant: (), out })
    }
}
