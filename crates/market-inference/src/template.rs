//! The chat template: from the GGUF metadata, else ChatML if the vocabulary has its marks, else plain `User:` lines. The template comes with
//! the file, so rendering is bounded in instructions and in output.

use std::io::Write;
use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Value, from_args};
use minijinja::{Environment, Error, ErrorKind, State, context};

use crate::config::PROMPT_BYTES_MAX;
use crate::error::LoadError;

/// Most template instructions per message and for the frame around them.
const FUEL_PER_MESSAGE: u64 = 20_000;
const FUEL_BASE: u64 = 200_000;
const TEMPLATE_BYTES_MAX: usize = 64 << 10;
const NAME: &str = "chat";

const CHATML: &str = "{%- for m in messages -%}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' -}}{%- endfor -%}\
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}";
const PLAIN: &str = "{%- for m in messages -%}\
{{- ('System: ' if m.role == 'system' else 'Assistant: ' if m.role == 'assistant' else 'User: ') + m.content + '\\n' -}}{%- endfor -%}\
{%- if add_generation_prompt -%}{{- 'Assistant:' -}}{%- endif -%}";

/// Who says a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Instructions to the model.
    System,
    /// The human or program that asks.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// The name in templates and in the OpenAI API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatMessage {
    /// Who says it.
    pub role: Role,
    /// What is said. Control marks of the model inside it (such as `<|im_end|>`) are read as marks, as in every common engine.
    pub content: String,
}

/// A compiled template.
#[derive(Clone)]
pub(crate) struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    bos: String,
    eos: String,
    pub(crate) source: String,
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplate").field("source_bytes", &self.source.len()).finish_non_exhaustive()
    }
}

impl ChatTemplate {
    /// Compiles the file's template, or picks a fallback by the vocabulary, and tries it on one message.
    pub(crate) fn new(from_file: Option<&str>, bos: &str, eos: &str, has_chatml: bool) -> Result<Self, LoadError> {
        let source = from_file.unwrap_or(if has_chatml { CHATML } else { PLAIN }).to_owned();
        if source.len() > TEMPLATE_BYTES_MAX {
            return Err(LoadError::TooLarge {
                what: "the chat template",
                value: source.len() as u64,
                max: TEMPLATE_BYTES_MAX as u64,
            });
        }
        let detail = |e: Error| LoadError::Template { detail: e.to_string() };
        let mut environment = Environment::new();
        environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(detail)?);
        environment.set_recursion_limit(64);
        environment.set_unknown_method_callback(python_method);
        environment.add_function("raise_exception", |text: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, text))
        });
        // These two build strings whose size is a number in the template, past every other bound.
        environment.remove_filter("indent");
        environment.remove_filter("format");
        environment.add_template_owned(NAME, source.clone()).map_err(detail)?;
        let template = Self { environment: Arc::new(environment), bos: bos.to_owned(), eos: eos.to_owned(), source };
        let probe = [ChatMessage { role: Role::User, content: "hello".to_owned() }];
        template.render(&probe).map_err(|detail| LoadError::Template { detail })?;
        Ok(template)
    }

    /// The prompt text of a conversation, with the mark that lets the model answer. The error is what the template said.
    pub(crate) fn render(&self, messages: &[ChatMessage]) -> Result<String, String> {
        let mut environment = (*self.environment).clone();
        environment.set_fuel(Some(FUEL_BASE + FUEL_PER_MESSAGE * messages.len() as u64));
        let list: Value = messages
            .iter()
            .map(|m| context! { role => m.role.as_str(), content => m.content.as_str() })
            .collect::<Vec<Value>>()
            .into();
        let root = context! { messages => list, add_generation_prompt => true, bos_token => self.bos.as_str(), eos_token => self.eos.as_str() };
        let template = environment.get_template(NAME).map_err(|e| e.to_string())?;
        let mut out = Bounded(Vec::new());
        template.render_captured_to(root, &mut out).map_err(|e| e.to_string())?;
        String::from_utf8(out.0).map_err(|e| e.to_string())
    }
}

/// A writer that refuses more than [`PROMPT_BYTES_MAX`].
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len().saturating_add(bytes.len()) > PROMPT_BYTES_MAX {
            return Err(std::io::Error::other("the rendered prompt is too large"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The few Python string methods that templates in the wild call.
fn python_method(_: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let unknown = || Error::from(ErrorKind::UnknownMethod);
    let text = value.as_str().ok_or_else(unknown)?;
    match method {
        "strip" | "lstrip" | "rstrip" if args.is_empty() => Ok(Value::from(match method {
            "lstrip" => text.trim_start(),
            "rstrip" => text.trim_end(),
            _ => text.trim(),
        })),
        "upper" => Ok(Value::from(text.to_uppercase())),
        "lower" => Ok(Value::from(text.to_lowercase())),
        "startswith" => from_args(args).map(|(head,): (&str,)| Value::from(text.starts_with(head))),
        "endswith" => from_args(args).map(|(tail,): (&str,)| Value::from(text.ends_with(tail))),
        "split" => {
            let (mark,): (&str,) = from_args(args)?;
            if mark.is_empty() {
                return Err(Error::new(ErrorKind::InvalidOperation, "empty separator"));
            }
            Ok(text.split(mark).map(Value::from).collect::<Vec<_>>().into())
        }
        _ => Err(unknown()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(content: &str) -> ChatMessage {
        ChatMessage { role: Role::User, content: content.to_owned() }
    }

    #[test]
    fn without_a_template_chatml_or_plain_lines_are_used() {
        let chatml = ChatTemplate::new(None, "", "", true).unwrap();
        assert_eq!(chatml.render(&[user("a")]).unwrap(), "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n");
        let plain = ChatTemplate::new(None, "", "", false).unwrap();
        assert_eq!(plain.render(&[user("a")]).unwrap(), "User: a\nAssistant:");
    }

    #[test]
    fn a_template_that_never_ends_runs_out_of_fuel() {
        let endless = "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}";
        let error = ChatTemplate::new(Some(endless), "", "", false).unwrap_err();
        assert!(matches!(&error, LoadError::Template { detail } if detail.contains("fuel")), "{error}");
    }

    #[test]
    fn a_template_that_writes_too_much_is_refused() {
        let error = ChatTemplate::new(Some("{{ 'x' * 9000000 }}"), "", "", false).unwrap_err();
        assert!(matches!(error, LoadError::Template { .. }), "{error}");
    }

    #[test]
    fn a_template_may_refuse_a_conversation() {
        let strict = "{% if messages|length > 1 %}{{ raise_exception('one at a time') }}{% endif %}{{ messages[0].content.strip() }}";
        let template = ChatTemplate::new(Some(strict), "", "", false).unwrap();
        assert_eq!(template.render(&[user(" a ")]).unwrap(), "a");
        assert!(template.render(&[user("a"), user("b")]).unwrap_err().contains("one at a time"));
    }

    #[test]
    fn a_template_that_does_not_compile_is_refused() {
        assert!(matches!(ChatTemplate::new(Some("{% if %}"), "", "", false), Err(LoadError::Template { .. })));
    }
}
