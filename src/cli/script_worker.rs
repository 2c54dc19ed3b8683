//! `dispatch script-worker`: runs scripts that another process of this program sends it, and may be killed at any moment.

use crate::error::{Error, Result};
use crate::expr::script::worker;

pub fn run() -> Result<()> {
    worker::serve().map_err(Error::internal)
}
