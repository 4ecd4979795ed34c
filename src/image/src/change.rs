//! Changes to an image's configuration, written as instructions of a Dockerfile: `--change` of import and commit.
//!
//! The grammar is the Dockerfile reference's: words with quotes and backslashes, `$NAME` and `${NAME}` from the
//! image's environment, commands as a JSON list or as a line for the shell.

use serde_json::{Map, Value, json};

/// The instructions that are understood.
const KNOWN: &str = "CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME, WORKDIR";

/// What comes before a shell line.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// One change, read but not yet applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    instruction: Instruction,
    rest: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Instruction {
    Cmd,
    Entrypoint,
    Env,
    Expose,
    Label,
    StopSignal,
    User,
    Volume,
    WorkDir,
}

impl std::str::FromStr for Change {
    type Err = String;

    /// Reads `INSTRUCTION ARGUMENTS`, or `INSTRUCTION=ARGUMENTS` as podman also writes it.
    fn from_str(text: &str) -> Result<Change, String> {
        let text = text.trim();
        let end = text.find(|letter: char| letter.is_whitespace() || letter == '=').unwrap_or(text.len());
        let (word, rest) = text.split_at(end);
        let instruction = match word.to_ascii_uppercase().as_str() {
            "CMD" => Instruction::Cmd,
            "ENTRYPOINT" => Instruction::Entrypoint,
            "ENV" => Instruction::Env,
            "EXPOSE" => Instruction::Expose,
            "LABEL" => Instruction::Label,
            "STOPSIGNAL" => Instruction::StopSignal,
            "USER" => Instruction::User,
            "VOLUME" => Instruction::Volume,
            "WORKDIR" => Instruction::WorkDir,
            _ => return Err(format!("'{word}' is no change that can be made: use one of {KNOWN}")),
        };
        let rest = rest.strip_prefix('=').unwrap_or(rest).trim().to_owned();
        let change = Change { instruction, rest };
        // What is wrong in itself, whatever the image's variables are, is said before anything is done.
        if !change.rest.contains('$') {
            change.apply(&mut Map::new(), &mut false)?;
        }
        Ok(change)
    }
}

/// Makes the changes, in order, to the `config` object of a configuration (image-spec config.md, "config").
///
/// # Errors
/// A line for the user when one of them makes no sense with this configuration.
pub fn apply_all(changes: &[Change], config: &mut Map<String, Value>) -> Result<(), String> {
    let mut command_set = false;
    changes.iter().try_for_each(|change| change.apply(config, &mut command_set))
}

impl Change {
    fn apply(&self, config: &mut Map<String, Value>, command_set: &mut bool) -> Result<(), String> {
        let Change { instruction, rest } = self;
        let what = || format!("'{rest}' is nothing to change to");
        match instruction {
            Instruction::Cmd => {
                config.insert("Cmd".into(), json!(command(rest)?));
                *command_set = true;
            }
            Instruction::Entrypoint => {
                config.insert("Entrypoint".into(), json!(command(rest)?));
                // The old arguments were for the old program (as docker build does it).
                if !*command_set {
                    config.remove("Cmd");
                }
            }
            Instruction::Env => {
                for (name, value) in pairs(rest, config)? {
                    let env = list(config, "Env");
                    let before = |known: &Value| {
                        known.as_str().and_then(|text| text.split('=').next()) == Some(name.as_str())
                    };
                    let set = json!(format!("{name}={value}"));
                    match env.iter_mut().find(|known| before(known)) {
                        Some(known) => *known = set,
                        None => env.push(set),
                    }
                }
            }
            Instruction::Label => {
                for (name, value) in pairs(rest, config)? {
                    object(config, "Labels").insert(name, json!(value));
                }
            }
            Instruction::Expose => {
                for word in arguments(rest, config)? {
                    for port in ports(&word)? {
                        object(config, "ExposedPorts").insert(port, json!({}));
                    }
                }
            }
            Instruction::Volume => {
                let paths = match json_list(rest) {
                    Some(paths) => paths,
                    None => arguments(rest, config)?,
                };
                if paths.is_empty() || paths.iter().any(String::is_empty) {
                    return Err(what());
                }
                for path in paths {
                    object(config, "Volumes").insert(path, json!({}));
                }
            }
            Instruction::User => {
                let user = one(rest, config)?;
                config.insert("User".into(), json!(user));
            }
            Instruction::StopSignal => {
                let signal = one(rest, config)?;
                let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-');
                if !signal.bytes().all(plain) {
                    return Err(format!("'{signal}' is no signal: write it as SIGTERM or as a number"));
                }
                config.insert("StopSignal".into(), json!(signal));
            }
            Instruction::WorkDir => {
                let folder = one(rest, config)?;
                let before = config.get("WorkingDir").and_then(Value::as_str).unwrap_or("/");
                let joined = std::path::Path::new("/").join(before).join(folder);
                config.insert("WorkingDir".into(), json!(joined.to_string_lossy()));
            }
        }
        Ok(())
    }
}

/// A list of the configuration, made when it is missing.
pub fn list<'c>(config: &'c mut Map<String, Value>, key: &str) -> &'c mut Vec<Value> {
    let value = config.entry(key).or_insert_with(|| json!([]));
    if !value.is_array() {
        *value = json!([]);
    }
    value.as_array_mut().expect("it was just made one")
}

/// An object of the configuration, made when it is missing.
pub fn object<'c>(config: &'c mut Map<String, Value>, key: &str) -> &'c mut Map<String, Value> {
    let value = config.entry(key).or_insert_with(|| json!({}));
    if !value.is_object() {
        *value = json!({});
    }
    value.as_object_mut().expect("it was just made one")
}

/// A JSON list of texts is a program with its arguments; else it is a line for the shell.
fn command(text: &str) -> Result<Vec<String>, String> {
    match json_list(text) {
        Some(words) => Ok(words),
        None if text.is_empty() => Err("the command is missing".into()),
        None => Ok(SHELL.iter().map(ToString::to_string).chain([text.to_owned()]).collect()),
    }
}

fn json_list(text: &str) -> Option<Vec<String>> {
    text.starts_with('[').then(|| serde_json::from_str(text).ok()).flatten()
}

/// `NAME=VALUE …`, or `NAME VALUE` with all that follows as the value.
fn pairs(text: &str, config: &Map<String, Value>) -> Result<Vec<(String, String)>, String> {
    let words = words(text)?;
    let wrong = || format!("'{text}' is no NAME=VALUE");
    let first = words.first().ok_or_else(wrong)?;
    if !first.contains('=') {
        let (name, value) = text.split_once(char::is_whitespace).ok_or_else(wrong)?;
        return Ok(vec![(name.to_owned(), expand(value.trim(), config)?)]);
    }
    let mut pairs = Vec::new();
    for word in &words {
        let (name, value) = word.split_once('=').ok_or_else(wrong)?;
        let name = expand(name, config)?;
        if name.is_empty() {
            return Err(wrong());
        }
        pairs.push((name, expand(value, config)?));
    }
    Ok(pairs)
}

/// Words, with quotes taken off and variables put in.
fn arguments(text: &str, config: &Map<String, Value>) -> Result<Vec<String>, String> {
    let words = words(text)?;
    if words.is_empty() {
        return Err("what to change to is missing".into());
    }
    words.iter().map(|word| expand(word, config)).collect()
}

fn one(text: &str, config: &Map<String, Value>) -> Result<String, String> {
    let value = expand(text, config)?;
    if value.is_empty() { Err("what to change to is missing".into()) } else { Ok(value) }
}

/// `80`, `80/udp`, `8000-8005/tcp`, as the keys of `ExposedPorts`.
fn ports(text: &str) -> Result<Vec<String>, String> {
    let wrong = || format!("'{text}' is no port: write it as 80, 80/udp or 8000-8005");
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(wrong());
    }
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(wrong);
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        return Err(wrong());
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

/// Splits at blanks that are neither quoted nor escaped; quotes and backslashes stay.
fn words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (letter, quote) {
            (' ' | '\t' | '\n', None) => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                continue;
            }
            ('\\', None | Some('"')) => {
                word.push(letter);
                word.extend(letters.next());
                continue;
            }
            ('"' | '\'', None) => quote = Some(letter),
            (letter, Some(open)) if letter == open => quote = None,
            _ => {}
        }
        word.push(letter);
    }
    if quote.is_some() {
        return Err(format!("'{text}' has a quote that is not closed"));
    }
    if !word.is_empty() {
        words.push(word);
    }
    Ok(words)
}

/// Takes quotes and backslashes off and puts variables in, which single quotes keep as they are.
fn expand(text: &str, config: &Map<String, Value>) -> Result<String, String> {
    let mut out = String::new();
    let mut quote = None;
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match (letter, quote) {
            ('\\', None) => out.extend(letters.next()),
            ('\\', Some('"')) => match letters.peek() {
                Some('"' | '\\' | '$') => out.extend(letters.next()),
                _ => out.push('\\'),
            },
            ('"' | '\'', None) => quote = Some(letter),
            (letter, Some(open)) if letter == open => quote = None,
            ('$', None | Some('"')) => {
                let braces = letters.next_if_eq(&'{').is_some();
                let mut name = String::new();
                while let Some(letter) =
                    letters.next_if(|letter| letter.is_ascii_alphanumeric() || *letter == '_')
                {
                    name.push(letter);
                }
                if braces && letters.next() != Some('}') {
                    return Err(format!("'{text}': of variables only $NAME and ${{NAME}} are understood"));
                }
                match name.is_empty() && !braces {
                    true => out.push('$'),
                    false => out.push_str(variable(config, &name)),
                }
            }
            _ => out.push(letter),
        }
    }
    Ok(out)
}

fn variable<'c>(config: &'c Map<String, Value>, name: &str) -> &'c str {
    let env = config.get("Env").and_then(Value::as_array).into_iter().flatten();
    let mut pairs = env.filter_map(Value::as_str).filter_map(|pair| pair.split_once('='));
    pairs.find(|(known, _)| *known == name).map_or("", |(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(before: Value, changes: &[&str]) -> Value {
        let changes: Vec<Change> = changes.iter().map(|text| text.parse().expect(text)).collect();
        let mut config = before.as_object().cloned().expect("an object");
        apply_all(&changes, &mut config).expect("it makes sense");
        Value::Object(config)
    }

    #[test]
    fn instructions_change_what_they_name() {
        let check = |before: Value, changes: &[&str], expected: Value| {
            assert_eq!(after(before, changes), expected, "{changes:?}");
        };
        check(json!({}), &[r#"CMD ["a", "b c"]"#], json!({"Cmd": ["a", "b c"]}));
        check(json!({}), &["cmd a  b"], json!({"Cmd": ["/bin/sh", "-c", "a  b"]}));
        check(json!({}), &["CMD=/bin/bash"], json!({"Cmd": ["/bin/sh", "-c", "/bin/bash"]}));
        check(json!({"Cmd": ["old"]}), &[r#"ENTRYPOINT ["x"]"#], json!({"Entrypoint": ["x"]}));
        check(
            json!({"Cmd": ["old"]}),
            &[r#"CMD ["new"]"#, r#"ENTRYPOINT ["x"]"#],
            json!({"Cmd": ["new"], "Entrypoint": ["x"]}),
        );
        check(
            json!({"Env": ["PATH=/bin", "B=1"]}),
            &[r#"ENV PATH=$PATH:/x B="2 3" C='$B'"#, "ENV D all of \"this\""],
            json!({"Env": ["PATH=/bin:/x", "B=2 3", "C=$B", "D=all of this"]}),
        );
        check(
            json!({"Labels": {"a": "1"}}),
            &[r#"LABEL a=2 "b c"=d\ e"#],
            json!({"Labels": {"a": "2", "b c": "d e"}}),
        );
        check(
            json!({}),
            &["EXPOSE 80 53/UDP 8000-8001"],
            json!({"ExposedPorts": {"80/tcp": {}, "53/udp": {}, "8000/tcp": {}, "8001/tcp": {}}}),
        );
        check(
            json!({}),
            &["VOLUME /a /b", r#"VOLUME ["/c"]"#],
            json!({"Volumes": {"/a": {}, "/b": {}, "/c": {}}}),
        );
        check(json!({"Env": ["U=1:2"]}), &["USER ${U}"], json!({"Env": ["U=1:2"], "User": "1:2"}));
        check(json!({"WorkingDir": "/a"}), &["WORKDIR b"], json!({"WorkingDir": "/a/b"}));
        check(json!({"WorkingDir": "/a"}), &["WORKDIR /b c"], json!({"WorkingDir": "/b c"}));
        check(json!({}), &["STOPSIGNAL SIGRTMIN+3"], json!({"StopSignal": "SIGRTMIN+3"}));
    }

    #[test]
    fn what_is_no_change_is_refused() {
        for (text, word) in [
            ("", "no change"),
            ("RUN x", "RUN"),
            ("HEALTHCHECK NONE", "HEALTHCHECK"),
            ("CMD", "missing"),
            ("ENV", "NAME=VALUE"),
            ("ENV a", "NAME=VALUE"),
            ("ENV a=1 b", "NAME=VALUE"),
            ("ENV =1", "NAME=VALUE"),
            ("LABEL a=\"1", "quote"),
            ("EXPOSE 0", "port"),
            ("EXPOSE 80/x", "port"),
            ("EXPOSE 9-8", "port"),
            ("USER", "missing"),
            ("VOLUME", "missing"),
            ("VOLUME [\"\"]", "nothing"),
            ("STOPSIGNAL a b", "signal"),
        ] {
            let line = text.parse::<Change>().expect_err(text);
            assert!(line.contains(word), "{text}: {line}");
        }
        let change: Change = "ENV a=${b:-1}".parse().expect("what it means depends on the image");
        let line = apply_all(&[change], &mut Map::new()).expect_err("a default");
        assert!(line.contains("variables"), "{line}");
    }
}
