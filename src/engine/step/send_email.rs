//! `send-email`: a mail over the operator's SMTP server or a mail service.
//!
//! A mail that may have gone is not sent again: when its answer is lost, somebody says what became of it. A service that takes an
//! `Idempotency-Key` is asked again instead.

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Fields, StepBody, StepOutput, StepType, config, service, text, text_of};
use crate::engine::context::{Interrupt, StepContext, StepFailure, StepResult};
use crate::error::Problems;
use crate::expr::{Template, TemplateTree};
use crate::failpoint;
use crate::model::Step;
use crate::net::{Mail, Undelivered};
use crate::tool::Effect;
use crate::tool::services::ServiceKind;

pub const TYPE: StepType = StepType {
    action: "send-email",
    summary: "Sends a mail, over SMTP or a mail service.",
    schema: || schemars::schema_for!(Config),
    compile,
};

/// The operator's server, as `provider` names it.
const SMTP: &str = "smtp";
/// People that one mail goes to.
const MOST_PEOPLE: usize = 50;

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "SendEmailConfig")]
struct Config {
    /// `name@host` or `Name <name@host>`; the operator's address when absent. A template, as is every text here.
    #[serde(default)]
    from: Option<String>,
    /// An address, several with commas between, or a list.
    to: Value,
    #[serde(default)]
    cc: Option<Value>,
    #[serde(default)]
    bcc: Option<Value>,
    #[serde(default)]
    reply_to: Option<String>,
    subject: String,
    #[serde(default)]
    html: Option<String>,
    /// The mail for those who read no HTML.
    #[serde(default)]
    text: Option<String>,
    /// `smtp`, `resend`, `postmark` or another of the server's mail services; the first that is configured when absent.
    #[serde(default)]
    provider: Option<String>,
}

struct Body {
    from: Option<Template>,
    to: TemplateTree,
    cc: Option<TemplateTree>,
    bcc: Option<TemplateTree>,
    reply_to: Option<Template>,
    subject: Template,
    html: Option<Template>,
    text: Option<Template>,
    provider: Option<String>,
}

fn compile(step: &Step) -> Result<Box<dyn StepBody>, Problems> {
    let config: Config = config(step)?;
    let mut fields = Fields::default();
    let mut text = |name: &str, text: &Option<String>| text.as_deref().and_then(|text| fields.template(name, text));
    let (from, reply_to) = (text("from", &config.from), text("replyTo", &config.reply_to));
    let (html, plain) = (text("html", &config.html), text("text", &config.text));
    if config.html.is_none() && config.text.is_none() {
        fields.problem("html", "expected the mail, as `html` or as `text`");
    }
    let subject = fields.template("subject", &config.subject);
    let to = fields.tree("to", &config.to);
    let cc = config.cc.as_ref().and_then(|value| fields.tree("cc", value));
    let bcc = config.bcc.as_ref().and_then(|value| fields.tree("bcc", value));
    fields.finish(subject.zip(to).map(|(subject, to)| Body {
        from,
        to,
        cc,
        bcc,
        reply_to,
        subject,
        html,
        text: plain,
        provider: config.provider,
    }))
}

impl Body {
    /// The mail with everything filled in.
    fn mail(&self, context: &StepContext<'_>) -> StepResult<Mail> {
        let text = |template: &Template| text(context, template);
        let people = |name: &str, tree: Option<&TemplateTree>| -> StepResult<Vec<String>> {
            let Some(tree) = tree else { return Ok(Vec::new()) };
            let texts: Vec<String> = match &context.fill_tree(tree)? {
                Value::Array(items) => items.iter().map(text_of).collect(),
                other => text_of(other).split(',').map(str::to_owned).collect(),
            };
            let people: Vec<String> = texts.iter().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()).collect();
            if people.len() > MOST_PEOPLE {
                return Err(StepFailure::new(
                    "invalid_mail",
                    format!("`{name}` came to {} addresses: expected at most {MOST_PEOPLE}", people.len()),
                )
                .into());
            }
            Ok(people)
        };
        let to = people("to", Some(&self.to))?;
        if to.is_empty() {
            return Err(StepFailure::new("invalid_mail", "`to` came to no address").into());
        }
        let optional = |template: Option<&Template>| template.map(text).transpose();
        let from = optional(self.from.as_ref())?.filter(|from| !from.trim().is_empty());
        Ok(Mail {
            from: sender(context, from)?,
            to,
            cc: people("cc", self.cc.as_ref())?,
            bcc: people("bcc", self.bcc.as_ref())?,
            reply_to: optional(self.reply_to.as_ref())?.filter(|address| !address.trim().is_empty()),
            subject: text(&self.subject)?.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect(),
            html: optional(self.html.as_ref())?,
            text: optional(self.text.as_ref())?,
            id: context.idempotency_key("mail").replace(|letter: char| !letter.is_ascii_alphanumeric(), "-"),
        })
    }
}

/// Who it comes from. When the operator named an address, others must be of its host: the server's good name is at stake.
fn sender(context: &StepContext<'_>, given: Option<String>) -> StepResult<String> {
    let host = |address: &str| address.rsplit('@').next().unwrap_or_default().trim_end_matches('>').trim().to_ascii_lowercase();
    match (given, context.parts().mail.from.as_ref()) {
        (Some(given), Some(own)) if host(&given) != host(own) => {
            let message = format!("mail from here comes from `{}`; `{given}` is another's", host(own));
            Err(StepFailure::new("sender_not_allowed", message).into())
        }
        (Some(given), _) => Ok(given),
        (None, Some(own)) => Ok(own.clone()),
        (None, None) => Err(StepFailure::new("invalid_mail", "`from` is missing, and the server has no address of its own").into()),
    }
}

#[async_trait]
impl StepBody for Body {
    async fn run(&self, context: &StepContext<'_>) -> StepResult<StepOutput> {
        let mail = self.mail(context)?;
        let mailer = context.parts().mail.server.as_ref();
        let wanted = self.provider.as_deref();
        if wanted == Some(SMTP) && mailer.is_none() {
            let message = "the server has no SMTP server: its operator sets DISPATCH_SMTP_URL";
            return Err(StepFailure::new("service_not_configured", message).into());
        }
        if let Some(mailer) = mailer.filter(|_| wanted.is_none_or(|wanted| wanted == SMTP)) {
            let id: String = context
                .effect(&context.key("mail"), Effect::Once, || async {
                    failpoint::hit("tool.before");
                    let sent = mailer.send(&mail).await;
                    failpoint::hit("tool.after");
                    sent.map_err(|undelivered| Interrupt::Fail(failed(undelivered)))
                })
                .await?;
            return Ok(StepOutput::of(json!({ "id": id, "provider": SMTP, "to": mail.to })));
        }
        let service = context.parts().services.find(ServiceKind::Mail, wanted, &context.run.keys)?;
        let answer = service::ask(context, service, "mail", &values(&mail), &[]).await?;
        // The message is sent, whether or not the service's answer can be read.
        let id = service.read(&answer).unwrap_or_default().into_iter().next().and_then(|read| read.get("id").cloned());
        Ok(StepOutput::of(json!({ "id": id, "provider": service.name, "to": mail.to })))
    }
}

/// The mail as services' files name it.
fn values(mail: &Mail) -> Map<String, Value> {
    let joined = |people: &[String]| (!people.is_empty()).then(|| people.join(", "));
    let values = json!({
        "from": mail.from, "to": mail.to, "cc": mail.cc, "bcc": mail.bcc, "replyTo": mail.reply_to, "subject": mail.subject,
        "toText": joined(&mail.to), "ccText": joined(&mail.cc), "bccText": joined(&mail.bcc), "html": mail.html, "text": mail.text,
    });
    values.as_object().cloned().unwrap_or_default()
}

fn failed(undelivered: Undelivered) -> StepFailure {
    StepFailure {
        retryable: undelivered.transient,
        fate_unknown: undelivered.sent,
        ..StepFailure::new("mail_not_sent", undelivered.message)
    }
}
