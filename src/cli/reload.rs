//! SIGHUP: the configuration file is read again, and a running server takes over the settings that allow it.

use std::path::PathBuf;

use super::settings::{self, EffectiveSetting, LoadedSettings};
use crate::app;
use crate::app::telemetry::LogFilter;
use crate::error::Result;
use crate::http::AppState;

/// What a running server needs to read its settings again.
pub struct ReloadContext {
    /// The configuration file, if there is one. Flags and the environment of a process do not change.
    pub file: Option<PathBuf>,
    /// The settings in force, and those that wait for a restart.
    pub settings: Vec<EffectiveSetting>,
    pub log: LogFilter,
}

impl ReloadContext {
    /// Reads the settings again. If they are not valid, everything stays as it is.
    pub fn reload(&mut self, state: &AppState) {
        if self.file.is_none() {
            tracing::info!("SIGHUP: there is no configuration file to read again; flags and the environment are read only at the start");
            return;
        }
        if let Err(error) = self.apply(state) {
            tracing::error!(
                code = error.code(),
                error = error.message(),
                "SIGHUP: the configuration is not valid; all settings stay as they are"
            );
        }
    }

    fn apply(&mut self, state: &AppState) -> Result<()> {
        let LoadedSettings { arguments, settings } = settings::load(self.file.as_deref())?;
        self.log.set(arguments.log())?;
        app::reload(state, &arguments.config());
        let (mut changed, mut waiting) = (Vec::new(), Vec::new());
        for (new, old) in settings.iter().zip(&self.settings) {
            if new.values != old.values {
                let list = if new.setting.reloads { &mut changed } else { &mut waiting };
                list.push(new.setting.key());
            }
        }
        // A setting that waits for a restart is compared with the value of the start each time.
        for (new, old) in settings.into_iter().zip(&mut self.settings) {
            if new.setting.reloads {
                *old = new;
            }
        }
        tracing::info!(changed = changed.join(", "), "SIGHUP: read the configuration again");
        if !waiting.is_empty() {
            tracing::warn!(settings = waiting.join(", "), "these settings have changed in the file and need a restart");
        }
        Ok(())
    }
}
