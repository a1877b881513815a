//! Scripts as text: one line for each step, that a person can read and change.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use crate::descriptors::Descriptor;
use crate::layout;
use crate::script::{Connection, DmaAnswer, Message, Pieces, Script, Step};

/// A script that can't be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("line {line}: {why}")]
pub struct ScriptError {
    /// Which line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub why: String,
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.connections.iter().try_for_each(|connection| connection.fmt(f))
    }
}

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("connection")?;
        if self.dma != DmaAnswer::default() {
            let name = DmaAnswer::ALL.iter().find(|(answer, _)| *answer == self.dma);
            write!(f, " dma={}", name.map_or("serve", |(_, name)| name))?;
        }
        if self.dma_after != 0 {
            write!(f, " dma-after={}", self.dma_after)?;
        }
        if self.late {
            f.write_str(" reads=late")?;
        }
        writeln!(f)?;
        for step in &self.steps {
            match step {
                Step::Send(message) => writeln!(f, "  {message}")?,
                Step::Wait => writeln!(f, "  wait")?,
                Step::Listen => writeln!(f, "  listen")?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let to = if self.twin { "send-twin" } else { "send" };
        write!(f, "{to} {} id={}", layout::name(self.command), self.id)?;
        for (field, value) in layout::fields(self.command).iter().zip(&self.fields) {
            write!(f, " {}={}", field.name, number(*value))?;
        }
        for (piece, count) in &self.data.0 {
            write!(f, " data={}", Bytes(piece))?;
            if *count != 1 {
                write!(f, "*{count}")?;
            }
        }
        let optional = [("cut", self.cut), ("header.size", self.size), ("half", self.half)];
        for (name, value) in optional {
            if let Some(value) = value {
                write!(f, " {name}={}", number(value.into()))?;
            }
        }
        for (name, value) in [("header.flags", self.flags), ("header.error", self.error)] {
            if value != 0 {
                write!(f, " {name}={}", number(value.into()))?;
            }
        }
        match self.pieces {
            Pieces::Whole => {}
            Pieces::Single => f.write_str(" pieces=single")?,
            Pieces::Two(at) => write!(f, " pieces={at}")?,
        }
        let mut rest = self.fds.as_slice();
        let mut before = " fds=";
        while let Some(first) = rest.first() {
            let same = rest.iter().take_while(|fd| *fd == first).count();
            write!(f, "{before}{}", Kind(*first))?;
            if same > 1 {
                write!(f, "*{same}")?;
            }
            before = ",";
            rest = rest.get(same..).unwrap_or_default();
        }
        if self.fds_at != 0 {
            write!(f, " fds-at={}", self.fds_at)?;
        }
        Ok(())
    }
}

/// Small numbers in decimal, large ones in hexadecimal.
pub(crate) fn number(value: u64) -> String {
    if value < 1024 { value.to_string() } else { format!("{value:#x}") }
}

struct Kind(Descriptor);

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Descriptor::Memfd(size) => write!(f, "memfd:{size:#x}"),
            Descriptor::ReadOnly(size) => write!(f, "read-only:{size:#x}"),
            other => {
                let name = Descriptor::NAMED.iter().find(|(known, _)| *known == other);
                f.write_str(name.map_or("eventfd", |(_, name)| name))
            }
        }
    }
}

/// Text in quotes if it is text, else hexadecimal digits.
struct Bytes<'a>(&'a [u8]);

impl fmt::Display for Bytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let printable = self.0.iter().filter(|b| b.is_ascii_graphic() || **b == b' ').count();
        if printable * 4 < self.0.len() * 3 || self.0.is_empty() {
            return self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"));
        }
        f.write_char('"')?;
        for byte in self.0 {
            match byte {
                b'"' | b'\\' => write!(f, "\\{}", char::from(*byte))?,
                b' '..=b'~' => f.write_char(char::from(*byte))?,
                other => write!(f, "\\x{other:02x}")?,
            }
        }
        f.write_char('"')
    }
}

impl FromStr for Script {
    type Err = ScriptError;

    fn from_str(text: &str) -> Result<Script, ScriptError> {
        let mut script = Script::default();
        for (number, line) in text.lines().enumerate() {
            parse_line(&mut script, line.trim())
                .map_err(|why| ScriptError { line: number + 1, why })?;
        }
        Ok(script)
    }
}

fn parse_line(script: &mut Script, line: &str) -> Result<(), String> {
    if line.is_empty() || line.starts_with('#') {
        return Ok(());
    }
    let words = words(line)?;
    let Some((first, words)) = words.split_first() else { return Ok(()) };
    if first == "connection" {
        script.connections.push(parse_connection(words)?);
        return Ok(());
    }
    let step = match first.as_str() {
        "wait" => Step::Wait,
        "listen" => Step::Listen,
        "send" => Step::Send(Box::new(parse_message(words, false)?)),
        "send-twin" => Step::Send(Box::new(parse_message(words, true)?)),
        other => {
            return Err(format!(
                "'{other}' is no step; a line begins with connection, send, send-twin, wait, \
                 listen or #"
            ));
        }
    };
    let connection = script.connections.last_mut();
    connection.ok_or("a script begins with a line 'connection'")?.steps.push(step);
    Ok(())
}

/// Splits at spaces outside of quotes.
fn words(line: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word) = (Vec::new(), String::new());
    let (mut quoted, mut escaped) = (false, false);
    for c in line.chars() {
        match c {
            ' ' if !quoted => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                continue;
            }
            '"' if !escaped => quoted = !quoted,
            _ => {}
        }
        escaped = quoted && c == '\\' && !escaped;
        word.push(c);
    }
    if quoted {
        return Err("a quote is not closed".into());
    }
    words.extend((!word.is_empty()).then_some(word));
    Ok(words)
}

fn parse_connection(words: &[String]) -> Result<Connection, String> {
    let mut connection = Connection::default();
    for word in words {
        match word.split_once('=') {
            Some(("dma", name)) => {
                let answer = DmaAnswer::ALL.iter().find(|(_, known)| *known == name);
                connection.dma = answer.ok_or_else(|| unknown_answer(name))?.0;
            }
            Some(("dma-after", count)) => connection.dma_after = small(count)?,
            Some(("reads", "late")) => connection.late = true,
            _ => {
                return Err(format!(
                    "'{word}': a connection has dma=HOW, dma-after=N and reads=late"
                ));
            }
        }
    }
    Ok(connection)
}

fn unknown_answer(name: &str) -> String {
    let names: Vec<_> = DmaAnswer::ALL.iter().map(|(_, name)| *name).collect();
    format!("dma={name}: it can be {}", names.join(", "))
}

fn parse_message(words: &[String], twin: bool) -> Result<Message, String> {
    let (name, words) = words.split_first().ok_or("send needs the name of a command")?;
    let command = layout::number(name)
        .ok_or_else(|| format!("'{name}' is no command: give a name or a number to 65535"))?;
    let layout = layout::fields(command);
    let fields = vec![0; layout.len()];
    let mut message = Message { twin, command, fields, ..Message::default() };
    for word in words {
        let (key, value) = word.split_once('=').ok_or_else(|| format!("'{word}' lacks a '='"))?;
        let field = layout.iter().position(|field| field.name == key);
        if let Some(field) = field.and_then(|at| message.fields.get_mut(at)) {
            *field = parse_number(value)?;
            continue;
        }
        match key {
            "id" => message.id = small(value)?,
            "data" => message.data.0.push(parse_data(value)?),
            "cut" => message.cut = Some(small(value)?),
            "half" => message.half = Some(small(value)?),
            "header.size" => message.size = Some(small(value)?),
            "header.flags" => message.flags = small(value)?,
            "header.error" => message.error = small(value)?,
            "fds-at" => message.fds_at = small(value)?,
            "fds" => message.fds = parse_fds(value)?,
            "pieces" if value == "single" => message.pieces = Pieces::Single,
            "pieces" => message.pieces = Pieces::Two(small(value)?),
            _ => return Err(format!("{name} has no field '{key}'")),
        }
    }
    Ok(message)
}

pub(crate) fn parse_number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|e| format!("'{text}': {e}"))
}

fn small<T: TryFrom<u64>>(text: &str) -> Result<T, String> {
    T::try_from(parse_number(text)?).map_err(|_| format!("{text} is too large"))
}

/// `what*5` is `what` five times.
fn repeated(text: &str) -> Result<(&str, u32), String> {
    match text.rsplit_once('*') {
        Some((what, count)) if !count.ends_with('"') => Ok((what, small(count)?)),
        _ => Ok((text, 1)),
    }
}

fn parse_data(text: &str) -> Result<(Vec<u8>, u32), String> {
    let (text, count) = repeated(text)?;
    let bytes = match text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
        Some(quoted) => unescape(quoted)?,
        None => hex(text)?,
    };
    Ok((bytes, count))
}

fn hex(digits: &str) -> Result<Vec<u8>, String> {
    let pairs = digits.as_bytes().chunks(2);
    let bytes = pairs.map(|pair| {
        let pair = std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?;
        u8::from_str_radix(pair, 16).ok()
    });
    bytes
        .collect::<Option<_>>()
        .ok_or_else(|| format!("'{digits}' is neither pairs of hexadecimal digits nor in quotes"))
}

fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('x') => {
                    let digits: String = chars.by_ref().take(2).collect();
                    bytes.extend(hex(&digits)?);
                }
                Some(c @ ('"' | '\\')) => bytes.push(c as u8),
                _ => return Err("in quotes, \\ is followed by x and two digits, \" or \\".into()),
            },
            c => bytes.extend(c.encode_utf8(&mut [0; 4]).bytes()),
        }
    }
    Ok(bytes)
}

fn parse_fds(text: &str) -> Result<Vec<Descriptor>, String> {
    let mut fds = Vec::new();
    for item in text.split(',') {
        let (name, count) = repeated(item)?;
        if count > 253 {
            return Err(format!("{item}: one message takes at most 253 descriptors"));
        }
        let kind = match name.split_once(':') {
            Some(("memfd", size)) => Descriptor::Memfd(parse_number(size)?),
            Some(("read-only", size)) => Descriptor::ReadOnly(parse_number(size)?),
            _ => {
                let known = Descriptor::NAMED.iter().find(|(_, known)| *known == name);
                known.ok_or_else(|| unknown_kind(name))?.0
            }
        };
        fds.extend(std::iter::repeat_n(kind, count as usize));
    }
    if fds.len() > 253 { Err("one message takes at most 253 descriptors".into()) } else { Ok(fds) }
}

fn unknown_kind(name: &str) -> String {
    let names: Vec<_> = Descriptor::NAMED.iter().map(|(_, name)| *name).collect();
    format!("'{name}' is no descriptor; there are memfd:SIZE, read-only:SIZE, {}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"connection dma=wrong-id dma-after=3 reads=late
  send VERSION id=0 major=0 minor=1 data="{\"capabilities\":{}}\x00"
  wait
  listen
  send DMA_MAP id=1 argsz=32 flags=3 offset=0 address=0x1000 size=0x2000 fds=memfd:0x2000,eventfd*3 fds-at=4
  send-twin DMA_READ id=2 address=0 count=8 data=00ff*65536 data=01 cut=20
connection
  send 77 id=3 header.size=0xffffffff half=8 header.flags=16 header.error=5 pieces=single
  send DEVICE_RESET id=4 pieces=7
"#;

    #[test]
    fn text_is_read_and_written() {
        let script: Script = TEXT.parse().unwrap();
        assert_eq!(script.to_string(), TEXT);
        let Step::Send(message) = &script.connections[0].steps[3] else { panic!() };
        assert_eq!(message.fds.len(), 4);
        assert_eq!(message.payload().len(), 32);
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        for (text, part) in [
            ("wait", "line 1: a script begins"),
            ("connection\nfly", "line 2: 'fly' is no step"),
            ("connection\nsend NOTHING", "'NOTHING' is no command"),
            ("connection\nsend DEVICE_RESET argsz=1", "DEVICE_RESET has no field 'argsz'"),
            ("connection\nsend DMA_MAP id=70000", "70000 is too large"),
            ("connection\nsend DMA_MAP fds=cat", "'cat' is no descriptor"),
            ("connection\nsend DMA_MAP fds=pipe*4000000000", "at most 253"),
            ("connection\nsend DMA_MAP data=0", "neither pairs"),
            ("connection\nsend DMA_MAP data=\"0", "not closed"),
            ("connection dma=cat", "it can be serve, refuse"),
        ] {
            let error = text.parse::<Script>().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
