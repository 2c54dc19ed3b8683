//! `fetch-github`: a file or a folder of a repository. A file comes as its text, a folder as the list of what it holds.

use async_trait::async_trait;
use base64::Engine as _;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Fields, StepBody, StepOutput, StepType, config, service, text};
use crate::engine::context::{StepContext, StepFailure, StepResult};
use crate::error::Problems;
use crate::expr::Template;
use crate::model::Step;
use crate::tool::services::ServiceKind;

pub const TYPE: StepType = StepType {
    action: "fetch-github",
    summary: "Reads a file or a folder of a GitHub repository.",
    schema: || schemars::schema_for!(Config),
    compile,
};

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "FetchGithubConfig")]
struct Config {
    /// `owner/name`; a template, as is every text here.
    repo: String,
    /// A file or a folder; the repository's root when absent.
    #[serde(default)]
    path: String,
    /// A branch, a tag or a commit; the default branch when absent.
    #[serde(default, rename = "ref", alias = "branch")]
    reference: Option<String>,
}

struct Body {
    repo: Template,
    path: Template,
    reference: Option<Template>,
}

fn compile(step: &Step) -> Result<Box<dyn StepBody>, Problems> {
    let config: Config = config(step)?;
    let mut fields = Fields::default();
    let repo = fields.template("repo", &config.repo);
    let path = fields.template("path", &config.path);
    let reference = config.reference.as_deref().and_then(|text| fields.template("ref", text));
    fields.finish(repo.zip(path).map(|(repo, path)| Body { repo, path, reference }))
}

#[async_trait]
impl StepBody for Body {
    async fn run(&self, context: &StepContext<'_>) -> StepResult<StepOutput> {
        let text = |template: &Template| text(context, template).map(|text| text.trim().to_owned());
        let (repo, path) = (text(&self.repo)?, text(&self.path)?);
        let plain = |text: &str| !text.is_empty() && text.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_.".contains(letter));
        let parts =
            repo.trim_end_matches(".git").rsplit_once('/').map(|(owner, name)| (owner.rsplit('/').next().unwrap_or_default(), name));
        let Some((owner, name)) = parts.filter(|(owner, name)| plain(owner) && plain(name)) else {
            return Err(StepFailure::new("invalid_repository", format!("`repo` came to `{repo}`: expected owner/name")).into());
        };
        let reference = self.reference.as_ref().map(text).transpose()?.filter(|reference| !reference.is_empty());
        // A file of that name may change: the answer is the one of the moment, and the default branch has no name here.
        let values = json!({ "owner": owner, "name": name, "ref": reference.unwrap_or_else(|| "HEAD".into()) });
        let values: Map<String, Value> = values.as_object().cloned().unwrap_or_default();
        let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
        let service = context.parts().services.find(ServiceKind::Code, Some("github"), &context.run.keys)?;
        let answer = service::ask(context, service, "file", &values, &segments).await?;
        read(&answer.read()?).map(StepOutput::of).map_err(Into::into)
    }
}

/// What the API says of a path: one file with its content, or a list.
fn read(answer: &Value) -> Result<Value, StepFailure> {
    if let Some(items) = answer.as_array() {
        let row = |item: &Value| json!({ "name": item["name"], "path": item["path"], "type": item["type"], "size": item["size"] });
        return Ok(Value::Array(items.iter().map(row).collect()));
    }
    let unreadable = |why: &str| StepFailure::new("file_unreadable", format!("`{}` {why}", answer["path"].as_str().unwrap_or("the path")));
    let content = answer.get("content").and_then(Value::as_str).filter(|_| answer["encoding"] == "base64");
    let content: String = content
        .ok_or_else(|| unreadable("has no content that can be read: it is a link, a submodule, or larger than 1 MB"))?
        .split_whitespace()
        .collect();
    let bytes = base64::engine::general_purpose::STANDARD.decode(content).map_err(|_| unreadable("came in a form that cannot be read"))?;
    String::from_utf8(bytes).map(Value::String).map_err(|_| unreadable("is no text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_texts_and_folders_are_lists() {
        let file = json!({ "path": "README.md", "encoding": "base64", "content": "aGVs\nbG8=\n" });
        assert_eq!(read(&file).unwrap(), "hello");
        let folder = json!([{ "name": "src", "path": "src", "type": "dir", "size": 0, "url": "x" }]);
        assert_eq!(read(&folder).unwrap(), json!([{ "name": "src", "path": "src", "type": "dir", "size": 0 }]));
        for wrong in
            [json!({ "path": "x", "encoding": "none", "content": "" }), json!({ "path": "x", "encoding": "base64", "content": "/w==" })]
        {
            assert_eq!(read(&wrong).unwrap_err().code, "file_unreadable");
        }
    }
}
