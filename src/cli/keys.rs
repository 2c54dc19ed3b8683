//! `dispatch keys`: API keys, made and revoked in the database itself; no server need run.

use std::time::Duration;

use clap::Subcommand;
use serde_json::{Value, json};

use super::database::Location;
use super::limit_options::LimitOptions;
use super::output::Output;
use crate::auth::{Auth, KeyRequest, REVOCATION_DELAY};
use crate::clock::{Clock, Timestamp};
use crate::engine::LIMITS_TTL;
use crate::error::{Error, Kind, Result};
use crate::id::{KeyId, TenantId};
use crate::model::{Caller, UsageLimits, Who};
use crate::store::{ApiKey, LimitsRow, SharedStore};

/// See the module.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    database: Location,
    /// Whose keys; the first tenant's when absent. `dispatch tenants list` shows the ids.
    #[arg(long, global = true)]
    tenant: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a key; it is shown once.
    Create {
        /// What people know it by.
        #[arg(long)]
        name: String,
        /// What it may do: `FLOWS:EXECUTE`, `RECORDS:*`, `*`; repeat or separate by commas.
        #[arg(long, required = true, value_delimiter = ',')]
        scopes: Vec<String>,
        /// When it stops working: 30d, 12h, 45m, 90s; never when absent.
        #[arg(long, value_parser = parse_span)]
        expires: Option<Duration>,
        #[command(flatten)]
        limits: LimitOptions,
    },
    /// List the keys, oldest first; revoked and expired ones too.
    List,
    /// Replace the limits of a key, or of the whole tenant; without options nothing is limited any more.
    Limit {
        /// The key's id, as `dispatch keys list` shows it; the tenant's own limits when absent.
        id: Option<String>,
        #[command(flatten)]
        limits: LimitOptions,
    },
    /// Revoke a key for good.
    Revoke {
        /// Its id, as `dispatch keys list` shows it.
        id: String,
    },
}

pub async fn run(arguments: Arguments, output: &Output) -> Result<()> {
    let clock = Clock::system();
    let desk = Desk::open(arguments.database, arguments.tenant, &clock).await?;
    let done = match arguments.command {
        Command::Create { name, scopes, expires, limits } => desk.create(name, scopes, (expires, limits), output).await,
        Command::Limit { id, limits } => desk.limit(id.as_deref(), &limits, output).await,
        Command::List => desk.list(output).await,
        Command::Revoke { id } => desk.revoke(&id, output).await,
    };
    desk.store.close().await;
    done
}

/// The keys of one database.
struct Desk {
    store: SharedStore,
    auth: Auth,
    clock: Clock,
    tenant: TenantId,
}

impl Desk {
    async fn open(database: Location, tenant: Option<String>, clock: &Clock) -> Result<Self> {
        let (_, store) = database.open(clock).await?;
        let mut tenants = store.list_tenants().await?.into_iter().map(|tenant| tenant.id);
        let missing = |what: String, next: &'static str| Error::new(Kind::Missing, "tenant_not_found", what).next(next);
        let tenant = match tenant {
            Some(wanted) => tenants
                .find(|tenant| tenant.to_string() == wanted)
                .ok_or_else(|| missing(format!("there is no tenant `{wanted}`"), "`dispatch tenants list` shows the ids"))?,
            None => tenants.next().ok_or_else(|| {
                missing(
                    "this database has no tenant yet".into(),
                    "start `dispatch serve` once: it makes the first tenant and prints its key",
                )
            })?,
        };
        Ok(Self { auth: Auth::new(store.clone(), clock.clone()), store, clock: clock.clone(), tenant })
    }

    async fn create(
        &self,
        name: String,
        scopes: Vec<String>,
        (expires, limits): (Option<Duration>, LimitOptions),
        output: &Output,
    ) -> Result<()> {
        let limits = limits.read()?;
        let id = KeyId::new(&self.clock);
        let request = KeyRequest { id, name, scopes, expires_at: expires.map(|span| self.clock.now().after(span)) };
        // Whoever holds the database may grant anything.
        let owner = Caller { tenant: self.tenant, who: Who::Key(id), scopes: vec!["*".into()] };
        let made = self.auth.create_key(&owner, request).await?;
        if !limits.is_empty() {
            self.put(Some(made.row.id), &limits).await?;
        }
        output.say(format_args!("API key (shown once): {}", made.key.expose()));
        output.say(self.line(&made.row));
        let mut row = shown(&made.row);
        if let Some(map) = row.as_object_mut() {
            map.insert("key".into(), made.key.expose().into());
            map.insert("limits".into(), json!(limits));
        }
        output.envelope(json!({ "apiKey": row }))
    }

    async fn list(&self, output: &Output) -> Result<()> {
        let keys = self.auth.list_keys(self.tenant).await?;
        if !keys.is_empty() {
            output.say(format_args!("{:<30}  {:<16}  {:<18}  {:<20}  scopes", "id", "key", "state", "name"));
        }
        for key in &keys {
            output.say(self.line(key));
        }
        output.envelope(json!({ "apiKeys": keys.iter().map(shown).collect::<Vec<_>>() }))
    }

    async fn put(&self, key: Option<KeyId>, limits: &UsageLimits) -> Result<()> {
        let row = LimitsRow { key, limits: limits.clone() };
        Ok(self.store.put_limits(self.tenant, row, self.clock.now()).await?)
    }

    async fn limit(&self, id: Option<&str>, limits: &LimitOptions, output: &Output) -> Result<()> {
        let limits = limits.read()?;
        let key = id.map(|id| id.parse::<KeyId>().map_err(|_| missing())).transpose()?;
        if let Some(key) = key
            && !self.auth.list_keys(self.tenant).await?.iter().any(|known| known.id == key)
        {
            return Err(missing());
        }
        self.put(key, &limits).await?;
        let whose = key.map_or_else(|| format!("the tenant {}", self.tenant), |key| key.to_string());
        let delay = LIMITS_TTL.as_secs();
        output.say(format_args!("the limits of {whose} were replaced; servers that run keep to them within {delay} s"));
        output.envelope(json!({ "tenant": self.tenant, "keyId": key, "limits": limits }))
    }

    async fn revoke(&self, id: &str, output: &Output) -> Result<()> {
        let key: KeyId = id.parse().map_err(|_| missing())?;
        if !self.auth.revoke_key(self.tenant, key).await? {
            return Err(missing());
        }
        let delay = REVOCATION_DELAY.as_secs();
        output.say(format_args!("{key} is revoked; servers that run refuse it within {delay} s"));
        output.envelope(json!({ "id": key, "revoked": true }))
    }

    /// One key as one line.
    fn line(&self, key: &ApiKey) -> String {
        let state = match (key.revoked_at, key.expires_at) {
            (Some(at), _) => format!("revoked {}", day(at)),
            (None, Some(at)) if at <= self.clock.now() => format!("expired {}", day(at)),
            (None, Some(at)) => format!("until {}", day(at)),
            (None, None) => "active".into(),
        };
        format!("{}  {:<16}  {:<18}  {:<20}  {}", key.id, key.hint, state, key.name, key.scopes.join(","))
    }
}

fn missing() -> Error {
    Error::missing("API key").next("`dispatch keys list` shows the ids")
}

/// The date of a time.
fn day(time: Timestamp) -> String {
    time.to_string().chars().take(10).collect()
}

/// A key as the API shows it.
fn shown(key: &ApiKey) -> Value {
    json!({
        "id": key.id, "name": key.name, "hint": key.hint, "scopes": key.scopes, "createdAt": key.created_at,
        "expiresAt": key.expires_at, "revokedAt": key.revoked_at,
    })
}

/// `30d`, `12h`, `45m`, `90s`.
fn parse_span(text: &str) -> Result<Duration, String> {
    let refuse = || format!("`{text}` is not a time span; write a number and a unit, as in 30d, 12h, 45m or 90s");
    let unit = text.chars().next_back().ok_or_else(refuse)?;
    let seconds = match unit {
        'd' => 86_400,
        'h' => 3_600,
        'm' => 60,
        's' => 1,
        _ => return Err(refuse()),
    };
    let count: u64 = text.strip_suffix(unit).unwrap_or_default().parse().map_err(|_| refuse())?;
    count.checked_mul(seconds).filter(|seconds| *seconds > 0).map(Duration::from_secs).ok_or_else(refuse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_a_number_and_a_unit() {
        assert_eq!(parse_span("30d"), Ok(Duration::from_secs(30 * 86_400)));
        assert_eq!(parse_span("90s"), Ok(Duration::from_secs(90)));
        for wrong in ["", "d", "30", "0h", "-1d", "1.5h", "3w", "999999999999999999d", "3é"] {
            assert!(parse_span(wrong).is_err(), "{wrong}");
        }
    }
}
