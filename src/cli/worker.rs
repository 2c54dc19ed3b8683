//! `dispatch script-worker` and `dispatch print-worker`: work that another process of this program gives, and that may be killed at any moment.

use crate::error::{Error, Result};
use crate::expr::script::worker;
use crate::html::printer;

pub fn scripts() -> Result<()> {
    worker::serve().map_err(Error::internal)
}

pub fn prints() -> Result<()> {
    printer::serve().map_err(Error::internal)
}
