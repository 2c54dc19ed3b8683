//! Mail over SMTP, to the operator's own server. Which one that is nobody else has a word in, so its address is not judged.

use std::fmt;
use std::io::ErrorKind;
use std::time::Duration;

use lettre::message::header::ContentType;
use lettre::message::{Mailbox, MultiPart, SinglePart};
use lettre::transport::smtp::Error as SmtpError;
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};

use crate::error::{Error, Kind, Result};
use crate::secret::Secret;

/// How long one command may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A mail; addresses as `name@host` or `Name <name@host>`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mail {
    pub from: String,
    pub to: Vec<String>,
    pub cc: Vec<String>,
    pub bcc: Vec<String>,
    pub reply_to: Option<String>,
    pub subject: String,
    pub html: Option<String>,
    pub text: Option<String>,
    /// Before the `@` of the message's id: the same for the same mail.
    pub id: String,
}

/// Why a mail did not go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undelivered {
    pub message: String,
    /// The server may take it later.
    pub transient: bool,
    /// It may have been taken all the same.
    pub sent: bool,
}

/// The operator's mail server. Cheap to clone.
#[derive(Clone)]
pub struct Mailer(AsyncSmtpTransport<Tokio1Executor>);

impl fmt::Debug for Mailer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mailer")
    }
}

impl Mailer {
    /// `smtps://user:password@host`, `smtp://user:password@host:587?tls=required`, or `smtp://host:25` without TLS.
    pub fn new(url: &Secret) -> Result<Self> {
        let wrong = |why: String| Error::new(Kind::Invalid, "invalid_smtp_url", format!("the mail server's address cannot be used: {why}"));
        let transport = AsyncSmtpTransport::<Tokio1Executor>::from_url(url.expose()).map_err(|error| wrong(error.to_string()))?;
        Ok(Self(transport.timeout(Some(PATIENCE)).build()))
    }

    /// Hands the mail to the server; the id that it carries.
    pub async fn send(&self, mail: &Mail) -> std::result::Result<String, Undelivered> {
        let (message, id) = compose(mail)?;
        self.0.send(message).await.map(|_| id).map_err(|error| undelivered(&error))
    }
}

/// The mail as it goes out. An address that is none, or nothing to say, refuses.
fn compose(mail: &Mail) -> std::result::Result<(Message, String), Undelivered> {
    let refuse = |message: String| Undelivered { message, transient: false, sent: false };
    let mailbox = |text: &String| text.parse::<Mailbox>().map_err(|error| refuse(format!("`{text}` is no mail address: {error}")));
    let from = mailbox(&mail.from)?;
    let id = format!("<{}@{}>", mail.id, from.email.domain());
    let mut builder = Message::builder().from(from).subject(mail.subject.as_str()).message_id(Some(id.clone()));
    for address in &mail.to {
        builder = builder.to(mailbox(address)?);
    }
    for address in &mail.cc {
        builder = builder.cc(mailbox(address)?);
    }
    for address in &mail.bcc {
        builder = builder.bcc(mailbox(address)?);
    }
    if let Some(address) = &mail.reply_to {
        builder = builder.reply_to(mailbox(address)?);
    }
    let message = match (&mail.text, &mail.html) {
        (Some(text), Some(html)) => builder.multipart(MultiPart::alternative_plain_html(text.clone(), html.clone())),
        (None, Some(html)) => builder.singlepart(SinglePart::html(html.clone())),
        (text, None) => builder.header(ContentType::TEXT_PLAIN).body(text.clone().unwrap_or_default()),
    };
    message.map(|message| (message, id)).map_err(|error| refuse(format!("the mail cannot be written: {error}")))
}

/// What says that no connection came about.
const UNREACHED: [ErrorKind; 4] =
    [ErrorKind::ConnectionRefused, ErrorKind::HostUnreachable, ErrorKind::NetworkUnreachable, ErrorKind::AddrNotAvailable];

fn undelivered(error: &SmtpError) -> Undelivered {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    let refused = error.is_permanent() || error.is_transient();
    // No connection stood, or none that a mail could pass.
    let unreached = cause.downcast_ref::<std::io::Error>().is_some_and(|error| UNREACHED.contains(&error.kind()));
    let unsent = refused || unreached || error.is_tls() || error.is_client();
    Undelivered { message: format!("the mail server did not take it: {cause}"), transient: !error.is_permanent(), sent: !unsent }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mail_is_written_with_both_its_texts_and_no_header_of_others() {
        let mail = Mail {
            from: "Shop <shop@example.com>".into(),
            to: vec!["ada@example.com".into()],
            subject: "Your order\r\nBcc: everyone@example.com".into(),
            html: Some("<b>Hi</b>".into()),
            text: Some("Hi".into()),
            id: "exec-1".into(),
            ..Mail::default()
        };
        let (message, id) = compose(&mail).unwrap();
        let written = String::from_utf8(message.formatted()).unwrap();
        assert_eq!(id, "<exec-1@example.com>");
        assert!(written.contains("multipart/alternative") && !written.contains("\r\nBcc:"), "{written}");
        let refused = compose(&Mail { to: vec!["not an address".into()], ..mail }).unwrap_err();
        assert!(!refused.transient && refused.message.contains("not an address"));
    }
}
