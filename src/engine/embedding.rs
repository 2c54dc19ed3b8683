//! Calls of models that turn texts into vectors: counted and traced, within a run or for a caller who waits.

use tracing::Instrument;

use super::budget::Worst;
use super::meter::{self, Asked};
use super::{Engine, Parts, traced};
use crate::error::Result;
use crate::id::{KeyId, TenantId};
use crate::model::ModelUsage;
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

/// The most that a request may use: a token is a byte at most.
pub(super) fn worst(model: &Resolved, texts: &[String]) -> Worst {
    let tokens = texts.iter().map(|text| text.len() as u64).sum();
    let cost = model.cost(&Usage { input: tokens, ..Usage::default() });
    Worst { cost: cost.nano_usd, tokens, calls: 1 }
}

/// What a request used, for its tenant's usage.
pub(super) fn billed(model: &Resolved, spent: &Spent, usage: &Usage) -> ModelUsage {
    ModelUsage {
        model: format!("{}/{}", model.provider, model.model),
        requests: spent.calls,
        input_tokens: spent.input_tokens,
        output_tokens: spent.output_tokens,
        cached_tokens: usage.cached_input,
        reasoning_tokens: usage.reasoning,
        cost: spent.cost,
    }
}

impl Engine {
    /// Makes a vector of each text, in as many requests as it takes, with the tenant's provider keys. No execution is made: usage, metrics and traces
    /// are all that tells of it. `key`: whose limits hold. Also the model that was asked.
    ///
    /// Refusals of limits: `budget_exceeded` (402), `rate_limited` (429).
    pub async fn embed(
        &self,
        (tenant, key): (TenantId, Option<KeyId>),
        model: &str,
        texts: &[String],
        dimensions: Option<u32>,
    ) -> Result<(Embedded, Resolved)> {
        let models = &self.parts().models;
        let keys = self.tenant_keys(tenant).await?;
        let resolved = models.resolve(model).and_then(|model| models.check(&model, &keys))?;
        let mut all = Embedded { vectors: Vec::with_capacity(texts.len()), usage: Usage::default() };
        for texts in texts.chunks(MOST_TEXTS) {
            let embedded = self.embed_some((tenant, key), &resolved, texts, dimensions).await?;
            all.vectors.extend(embedded.vectors);
            all.usage = all.usage.plus(&embedded.usage);
        }
        Ok((all, resolved))
    }
    /// One request, under the limits of the key and the tenant.
    async fn embed_some(
        &self,
        (tenant, key): (TenantId, Option<KeyId>),
        model: &Resolved,
        texts: &[String],
        dimensions: Option<u32>,
    ) -> Result<Embedded> {
        let parts = self.parts();
        let hold = self.quotas().book_or_refuse(tenant, key, worst(model, texts)).await?;
        let answer = request(parts, model, texts.to_vec(), dimensions).await;
        let used = answer.as_ref().map_or((0, 0), |(_, spent)| (spent.cost, spent.tokens()));
        if let Some(hold) = hold {
            hold.note(used.0, used.1);
            hold.settle().await;
        }
        let (embedded, spent) = answer?;
        let usage = billed(model, &spent, &embedded.usage);
        if let Err(error) = parts.store.add_usage(tenant, key, usage, parts.clock.now()).await {
            // The caller has paid for the vectors: they are not withheld for the sake of a figure.
            tracing::warn!(%tenant, %error, "the usage of an embedding was not recorded");
        }
        Ok(embedded)
    }
}
