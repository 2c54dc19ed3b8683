//! Where the caller wrote what a problem of the translated request is about.

/// Parameters under the names that the translated request has, and the caller's.
const RENAMED: [(&str, &str); 4] = [
    ("/max_completion_tokens", "/max_output_tokens"),
    ("/reasoning_effort", "/reasoning/effort"),
    ("/response_format/json_schema", "/text/format"),
    ("/response_format", "/text/format"),
];

/// Where one message comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ItemPlace {
    /// A message item.
    Message(String),
    /// An assistant's message with calls: where it begins, and where each call stands.
    Calls(String, Vec<String>),
    /// The output of a function call.
    Output(String),
    /// Another parameter.
    Elsewhere(String),
}

/// Where each message of a conversation comes from.
#[derive(Debug, Default)]
pub struct PlaceMap(pub Vec<ItemPlace>);

impl PlaceMap {
    /// Notes the place of one more call of a message.
    pub fn add_call(&mut self, index: usize, at: &str) {
        let Some(place) = self.0.get_mut(index) else { return };
        match place {
            ItemPlace::Message(own) => *place = ItemPlace::Calls(std::mem::take(own), vec![at.to_owned()]),
            ItemPlace::Calls(_, calls) => calls.push(at.to_owned()),
            ItemPlace::Output(_) | ItemPlace::Elsewhere(_) => {}
        }
    }

    /// The caller's pointer for a pointer into a message.
    pub fn of(&self, index: usize, rest: &str) -> String {
        match self.0.get(index) {
            None => "/input".into(),
            Some(ItemPlace::Elsewhere(place)) => place.clone(),
            Some(ItemPlace::Message(own)) => format!("{own}{rest}"),
            Some(ItemPlace::Output(own)) => {
                let rest = rest.replacen("/content", "/output", 1).replacen("/tool_call_id", "/call_id", 1);
                format!("{own}{rest}")
            }
            Some(ItemPlace::Calls(own, calls)) => {
                let Some(call) = rest.strip_prefix("/tool_calls/") else { return format!("{own}{rest}") };
                let (number, rest) = call.split_once('/').unwrap_or((call, ""));
                let place = number.parse::<usize>().ok().and_then(|number| calls.get(number)).unwrap_or(own);
                match rest.strip_prefix("function/").unwrap_or(rest) {
                    "" => place.clone(),
                    rest => format!("{place}/{rest}"),
                }
            }
        }
    }

    /// The caller's pointer for a pointer into the translated request.
    pub fn pointer(&self, pointer: &str) -> String {
        if let Some(message) = pointer.strip_prefix("/messages") {
            let (index, rest) = message.trim_start_matches('/').split_once('/').unwrap_or((message.trim_start_matches('/'), ""));
            let rest = if rest.is_empty() { String::new() } else { format!("/{rest}") };
            return index.parse::<usize>().map_or_else(|_| "/input".into(), |index| self.of(index, &rest));
        }
        if pointer.starts_with("/tools/") {
            return pointer.replacen("/function", "", 1);
        }
        let renamed = RENAMED.iter().find_map(|(own, callers)| Some((callers, pointer.strip_prefix(own)?)));
        renamed.map_or_else(|| pointer.to_owned(), |(callers, rest)| format!("{callers}{rest}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_lead_to_the_caller_s_words() {
        let calls = ItemPlace::Calls("/input/1".into(), vec!["/input/2".into(), "/input/3".into()]);
        let places = PlaceMap(vec![
            ItemPlace::Elsewhere("/instructions".into()),
            ItemPlace::Message("/input/0".into()),
            calls,
            ItemPlace::Output("/input/4".into()),
        ]);
        for (pointer, expected) in [
            ("/messages", "/input"),
            ("/messages/0/content", "/instructions"),
            ("/messages/1/content/0/image_url", "/input/0/content/0/image_url"),
            ("/messages/2/content", "/input/1/content"),
            ("/messages/2/tool_calls/1/function/name", "/input/3/name"),
            ("/messages/3/content/0", "/input/4/output/0"),
            ("/tools/2/function/parameters/type", "/tools/2/parameters/type"),
            ("/response_format/json_schema/schema", "/text/format/schema"),
            ("/reasoning_effort", "/reasoning/effort"),
            ("/dispatch/budget/maxCost", "/dispatch/budget/maxCost"),
        ] {
            assert_eq!(places.pointer(pointer), expected);
        }
    }
}
