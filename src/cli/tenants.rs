//! `dispatch tenants`: tenants, made in the database itself; no server need run.

use clap::Subcommand;
use serde_json::json;

use super::database::Location;
use super::output::Output;
use crate::app;
use crate::clock::Clock;
use crate::error::Result;
use crate::store::sealing::Encryption;

/// See the module.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    database: Location,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a tenant and its first key, which is shown once.
    Create {
        /// What people know it by.
        #[arg(long)]
        name: String,
        /// Who can read what it keeps; it cannot be changed later.
        #[arg(long, value_enum, default_value_t)]
        encryption: Chosen,
    },
    /// List the tenants, oldest first.
    List,
}

/// [`Encryption`], on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum Chosen {
    /// Whoever reads the database; secrets are sealed under the server's key.
    #[default]
    None,
    /// Whoever has the database and the server's key.
    Managed,
    /// Whoever has the tenant's own key.
    ZeroKnowledge,
}

impl From<Chosen> for Encryption {
    fn from(chosen: Chosen) -> Self {
        match chosen {
            Chosen::None => Self::None,
            Chosen::Managed => Self::Managed,
            Chosen::ZeroKnowledge => Self::ZeroKnowledge,
        }
    }
}

pub async fn run(arguments: Arguments, output: &Output) -> Result<()> {
    let clock = Clock::system();
    let (config, store) = arguments.database.open(&clock).await?;
    let done = match arguments.command {
        Command::Create { name, encryption } => match app::new_tenant(&config, &clock, &store, name, encryption.into()).await {
            Ok((tenant, key)) => {
                output.say(format_args!("Tenant: {} ({})", tenant.id, tenant.name));
                output.say(format_args!("API key (shown once): {}", key.expose()));
                output.envelope(json!({ "tenant": { "id": tenant.id, "name": tenant.name }, "key": key.expose() }))
            }
            Err(error) => Err(error),
        },
        Command::List => match store.list_tenants().await {
            Ok(tenants) => {
                tenants.iter().for_each(|tenant| output.say(format_args!("{}  {}", tenant.id, tenant.name)));
                let shown = |tenant: &crate::store::Tenant| json!({ "id": tenant.id, "name": tenant.name, "createdAt": tenant.created_at });
                output.envelope(json!({ "tenants": tenants.iter().map(shown).collect::<Vec<_>>() }))
            }
            Err(error) => Err(error.into()),
        },
    };
    store.close().await;
    done
}
