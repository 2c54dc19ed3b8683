//! Buckets that speak S3, reached through the one way out.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::client::{
    ClientOptions, HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
};
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, Result, RetryConfig};

use super::LARGEST;
use crate::net::{Egress, Request, Trust};

/// How long one request may be tried again.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn open(place: &str, env: &HashMap<String, String>, egress: &Egress) -> Result<Arc<dyn ObjectStore>> {
    let rest = place.trim_start_matches("s3://");
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let mut builder = AmazonS3Builder::new().with_bucket_name(bucket).with_http_connector(Door(egress.clone())).with_retry(RetryConfig {
        max_retries: 3,
        retry_timeout: PATIENCE,
        ..RetryConfig::default()
    });
    for (name, value) in env.iter().filter(|(name, _)| name.starts_with("AWS_")) {
        if let Ok(key) = name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>() {
            builder = builder.with_config(key, value);
        }
    }
    let bucket = builder.build()?;
    Ok(if prefix.is_empty() { Arc::new(bucket) } else { Arc::new(PrefixStore::new(bucket, prefix)) })
}

#[derive(Debug, Clone)]
struct Door(Egress);

impl HttpConnector for Door {
    fn connect(&self, _: &ClientOptions) -> Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Door {
    async fn call(&self, request: HttpRequest) -> std::result::Result<HttpResponse, HttpError> {
        let (head, body) = request.into_parts();
        let unreadable = |error| HttpError::new(HttpErrorKind::Request, error);
        let body = body.collect().await.map_err(unreadable)?.to_bytes();
        let mut out = Request::new(head.method, head.uri.to_string(), Trust::Operator);
        // The place is the operator's own; where it sends us elsewhere is not.
        out.max_redirects = 0;
        out.max_bytes = LARGEST + 1024 * 1024;
        for (name, value) in head.headers.iter().filter(|(name, _)| **name != http::header::HOST) {
            out = out.header(name.as_str(), String::from_utf8_lossy(value.as_bytes()).into_owned());
        }
        if !body.is_empty() {
            out = out.body(body);
        }
        let failed = |error: crate::net::Error| {
            let kind = if error.is_transient() { HttpErrorKind::Interrupted } else { HttpErrorKind::Unknown };
            HttpError::new(kind, error)
        };
        let answer = self.0.send(out).await.map_err(failed)?;
        let (status, headers) = (answer.status, answer.headers.clone());
        let bytes: Bytes = answer.bytes().await.map_err(failed)?;
        let mut response = HttpResponse::new(HttpResponseBody::new(Full::new(bytes).map_err(|never| match never {})));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        Ok(response)
    }
}
