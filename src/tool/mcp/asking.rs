//! What a server of the revisions with sessions asks in the middle of a call.
//!
//! Such a server waits for its answer while the call hangs; a person may take days. So the question is noted and cancelled, and the call ends.
//! When somebody has answered, the call is made again, and the same question is answered at once. A question is known by what it says.

use std::sync::Arc;

use parking_lot::Mutex;
use rmcp::ClientHandler;
use rmcp::model::{ClientConfig, ElicitRequestParams, ElicitResult, ElicitationAction, ErrorData};
use rmcp::service::{RequestContext, RoleClient};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::{Mutex as Turn, OwnedMutexGuard};

/// The client's side of one session. Clones share what was heard.
#[derive(Clone)]
pub(super) struct Asking {
    config: ClientConfig,
    heard: Arc<Mutex<Heard>>,
    /// Nothing says to which call a question belongs: one call at a time.
    turn: Arc<Turn<()>>,
}

#[derive(Default)]
struct Heard {
    /// By the questions' names.
    answers: Map<String, Value>,
    /// Without an answer, as the newer revision writes them.
    asked: Map<String, Value>,
}

/// A call that may be asked something.
pub(super) struct Listening {
    asking: Asking,
    _turn: OwnedMutexGuard<()>,
}

impl Asking {
    pub fn new(config: ClientConfig) -> Self {
        Self { config, heard: Arc::default(), turn: Arc::default() }
    }

    /// Waits for the calls before, and takes what people have answered.
    pub async fn listen(&self, answers: Map<String, Value>) -> Listening {
        let turn = self.turn.clone().lock_owned().await;
        *self.heard.lock() = Heard { answers, asked: Map::new() };
        Listening { asking: self.clone(), _turn: turn }
    }
}

impl Listening {
    /// What was asked in the call and had no answer.
    pub fn asked(self) -> Map<String, Value> {
        std::mem::take(&mut self.asking.heard.lock().asked)
    }
}

/// The same question has the same name, whenever it is asked.
fn name(question: &Value) -> String {
    Sha256::digest(question.to_string()).iter().take(8).fold("question_".to_owned(), |name, byte| format!("{name}{byte:02x}"))
}

impl ClientHandler for Asking {
    fn get_info(&self) -> ClientConfig {
        self.config.clone()
    }

    async fn create_elicitation(&self, question: ElicitRequestParams, _: RequestContext<RoleClient>) -> Result<ElicitResult, ErrorData> {
        let question = serde_json::to_value(question).map_err(|error| ErrorData::invalid_params(error.to_string(), None))?;
        let name = name(&question);
        let mut heard = self.heard.lock();
        if let Some(answer) = heard.answers.get(&name) {
            return serde_json::from_value(answer.clone()).map_err(|error| ErrorData::internal_error(error.to_string(), None));
        }
        heard.asked.insert(name, json!({ "method": "elicitation/create", "params": question }));
        Ok(ElicitResult::new(ElicitationAction::Cancel))
    }
}
