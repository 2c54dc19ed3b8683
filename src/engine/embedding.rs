//! Calls of models that turn texts into vectors: counted and traced, within a run or for a caller who waits.

use tracing::Instrument;

use super::meter::{self, Asked};
use super::{Engine, Parts, traced};
use crate::error::Result;
use crate::id::TenantId;
use crate::model::run::Spent;
use crate::provider::{Embedded, MOST_TEXTS, ProviderError, Resolved, Usage};

/// Makes one request for at most [`MOST_TEXTS`] texts; also what it cost.
pub(super) async fn request(
    parts: &Parts,
    model: &Resolved,
    texts: Vec<String>,
    dimensions: Option<u32>,
) -> Result<(Embedded, Spent), ProviderError> {
    let models = &parts.models;
    let asked = Asked::of(models, &model.provider, &model.model);
    let (span, begun) = (traced::model("embeddings", model), parts.clock.instant());
    let answer = models.embed(model, texts, dimensions).instrument(span.clone()).await;
    meter::called(&asked, if answer.is_ok() { meter::SUCCESS } else { meter::FAILURE }, begun.elapsed());
    let (embedded, cost) = answer.inspect_err(|error| {
        meter::refused(&asked, error.class.name());
        traced::failed(&span, error.class.name());
    })?;
    let usage = embedded.usage;
    traced::answered(&span, &model.model, &usage);
    let estimated = cost.estimated || cost.unpriced || usage.estimated;
    let spent = Spent { cost: cost.nano_usd, input_tokens: usage.input, output_tokens: 0, calls: 1, duration_ms: 0, estimated };
    meter::spent(&asked, &spent);
    Ok((embedded, spent))
}

impl Engine {
    /// Makes a vector of each text, in as many requests as it takes, with the tenant's keys. No execution is made: metrics and traces are all that
    /// tells of it. Also the model that was asked.
    pub async fn embed(&self, tenant: TenantId, model: &str, texts: &[String], dimensions: Option<u32>) -> Result<(Embedded, Resolved)> {
        let models = &self.parts().models;
        let keys = self.tenant_keys(tenant).await?;
        let resolved = models.resolve(model).and_then(|model| models.check(&model, &keys))?;
        let mut all = Embedded { vectors: Vec::with_capacity(texts.len()), usage: Usage::default() };
        for texts in texts.chunks(MOST_TEXTS) {
            let (embedded, _) = request(self.parts(), &resolved, texts.to_vec(), dimensions).await?;
            all.vectors.extend(embedded.vectors);
            all.usage = all.usage.plus(&embedded.usage);
        }
        Ok((all, resolved))
    }
}
