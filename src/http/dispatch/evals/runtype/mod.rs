//! Evals in the words of Runtype's API, which calls an eval of one way to ask a batch, and batches that were begun together a group.
//!
//! `submit` begins them, `stream` follows them, `views` shows them.

mod stream;
mod submit;
mod views;

use aide::axum::ApiRouter;

pub(super) use self::views::{CaseError, EvalBrief, EvalFigures, of_group};
use crate::http::AppState;

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new().merge(submit::routes()).merge(stream::routes()).merge(views::routes())
}
