//! The part of Go's templates that people give to `--format`: text with `{{.Field}}`, `{{.A.B}}` and `{{json .Field}}`
//! in it. What else that language has (pipes, loops, functions) is refused.

use serde_json::Value;

/// A text with places to be filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    /// A value by the names on the way to it; all of it when there are none.
    Value {
        path: Vec<String>,
        json: bool,
    },
}

impl Template {
    /// Reads a template; `\t` and `\n` in its text are what they are in Go's.
    pub(crate) fn parse(text: &str) -> Result<Template, String> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let (action, behind) =
                after.split_once("}}").ok_or_else(|| format!("'{text}' has {{{{ without }}}}"))?;
            pieces.push(Piece::Text(unescape(before)));
            pieces.push(action_of(action.trim()).ok_or_else(|| {
                format!("'{{{{{action}}}}}' cannot be used: only {{{{.Field}}}} and {{{{json .Field}}}} can")
            })?);
            rest = behind;
        }
        if pieces.is_empty() {
            return Err(format!(
                "'{text}' is no format: use table, json, or a template such as '{{{{.ID}}}}'"
            ));
        }
        pieces.push(Piece::Text(unescape(rest)));
        Ok(Template(pieces))
    }

    /// Fills it in. Fails with one line when `value` has no such field.
    pub(crate) fn render(&self, value: &Value) -> Result<String, String> {
        let mut text = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(own) => text.push_str(own),
                Piece::Value { path, json } => {
                    let found = find(value, path)?;
                    text.push_str(&if *json { found.to_string() } else { plain(found) });
                }
            }
        }
        Ok(text)
    }

    /// The same with a heading in the place of every field.
    pub(crate) fn headings(&self, heading: impl Fn(&str) -> String) -> String {
        let texts = self.0.iter().map(|piece| match piece {
            Piece::Text(own) => own.clone(),
            Piece::Value { path, .. } => path.last().map(|name| heading(name)).unwrap_or_default(),
        });
        texts.collect()
    }
}

fn unescape(text: &str) -> String {
    text.replace("\\t", "\t").replace("\\n", "\n")
}

/// `.`, `.A.B` or one of these after `json`.
fn action_of(action: &str) -> Option<Piece> {
    let (json, names) = match action.strip_prefix("json") {
        Some(rest) if rest.starts_with(char::is_whitespace) => (true, rest.trim_start()),
        _ => (false, action),
    };
    let names = names.strip_prefix('.')?;
    if names.is_empty() {
        return Some(Piece::Value { path: Vec::new(), json });
    }
    let name =
        |name: &str| !name.is_empty() && name.chars().all(|letter| letter.is_alphanumeric() || letter == '_');
    let path: Vec<String> = names.split('.').map(str::to_owned).collect();
    path.iter().all(|part| name(part)).then_some(Piece::Value { path, json })
}

fn find<'v>(value: &'v Value, path: &[String]) -> Result<&'v Value, String> {
    path.iter().try_fold(value, |value, name| {
        value.get(name).ok_or_else(|| match value.as_object() {
            Some(map) => {
                let known: Vec<&str> = map.keys().map(String::as_str).collect();
                format!("there is no field {name}, only {}", known.join(", "))
            }
            None => format!("there is no field {name} in {value}"),
        })
    })
}

/// A value as Go prints it.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(values) => format!("[{}]", values.iter().map(plain).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(name, _)| *name);
            let entries = entries.into_iter().map(|(name, value)| format!("{name}:{}", plain(value)));
            format!("map[{}]", entries.collect::<Vec<_>>().join(" "))
        }
        Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_are_filled_in_as_go_does() {
        let value = json!({
            "ID": "x", "Size": 3, "On": true, "No": null, "Env": ["A=1", "B"],
            "State": { "Pid": 7, "Labels": { "b": "2", "a": "1" } },
        });
        let check = |text: &str, expected: &str| {
            let template = Template::parse(text).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(template.render(&value).as_deref(), Ok(expected), "{text}");
        };
        check("{{.ID}}", "x");
        check("a {{ .ID }}:{{.Size}}b\\n", "a x:3b\n");
        check("{{.On}} {{.No}} {{.Env}}", "true <no value> [A=1 B]");
        check("{{.State.Pid}}\\t{{.State.Labels}}", "7\tmap[a:1 b:2]");
        check("{{json .Env}}{{json .ID}}", "[\"A=1\",\"B\"]\"x\"");
        assert_eq!(Template::parse("{{json .}}").expect("well formed").render(&value), Ok(value.to_string()));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (text, word) in [
            ("xml", "no format"),
            ("{{.ID", "without"),
            ("{{ID}}", "{{ID}}"),
            ("{{range .A}}x{{end}}", "{{range .A}}"),
            ("{{.ID | json}}", "only"),
            ("{{upper .ID}}", "only"),
            ("{{.A..B}}", "only"),
            ("{{}}", "only"),
        ] {
            let error = Template::parse(text).expect_err(text);
            assert!(error.contains(word) && !error.contains('\n'), "{text}: {error}");
        }
        let template = Template::parse("{{.Nam}}").expect("well formed");
        assert!(template.render(&json!({ "Name": 1 })).is_err_and(|error| error.contains("only Name")));
        assert!(Template::parse("{{.A.B}}").expect("well formed").render(&json!({ "A": 1 })).is_err());
    }
}
