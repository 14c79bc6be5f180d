//! Values as text: `str`, `repr`, `json.dumps`, `%`, dates.

use super::R;
use super::value::{Shape, Value};
use super::vm::Vm;

/// Python's `str`.
pub fn to_text(vm: &Vm, v: &Value) -> R<String> {
    vm.meter.pay((v.weight() / 32) as usize)?;
    vm.meter.room(v.weight() as usize)?;
    let mut out = String::new();
    match v {
        Value::Str(s) => out.push_str(s),
        Value::Undefined(_) => {}
        v => repr(v, &mut out),
    }
    Ok(out)
}

/// Python's `repr`. The value's weight bounds the work and its depth the recursion.
pub fn repr(v: &Value, out: &mut String) {
    match v {
        Value::Undefined(_) => out.push_str("Undefined"),
        Value::None => out.push_str("None"),
        Value::Bool(b) => out.push_str(if *b { "True" } else { "False" }),
        Value::Int(i) => out.push_str(&i.to_string()),
        Value::Float(f) => out.push_str(&float(*f)),
        Value::Str(s) => repr_str(s, out),
        Value::List(l) => {
            let (open, close) = match l.shape {
                Shape::Tuple => ('(', ')'),
                Shape::List => ('[', ']'),
                Shape::Iter => return out.push_str("<generator object>"),
            };
            out.push(open);
            for (i, v) in l.items.iter().enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                repr(v, out);
            }
            if l.shape == Shape::Tuple && l.items.len() == 1 {
                out.push(',');
            }
            out.push(close);
        }
        Value::Dict(d) => {
            out.push('{');
            for (i, (k, v)) in d.entries.iter().enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                repr(k, out);
                out.push_str(": ");
                repr(v, out);
            }
            out.push('}');
        }
        Value::Space(_) => out.push_str("<Namespace>"),
        v => {
            out.push('<');
            out.push_str(v.type_name());
            out.push('>');
        }
    }
}

fn repr_str(s: &str, out: &mut String) {
    let quote = if s.contains('\'') && !s.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in s.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if (c as u32) < 0x20 || (0x7f..0xa1).contains(&(c as u32)) || c == '\u{ad}' => {
                out.push_str(&format!("\\x{:02x}", c as u32));
            }
            c => out.push(c),
        }
    }
    out.push(quote);
}

/// Python's shortest decimal of a float.
pub fn float(f: f64) -> String {
    if f.is_nan() {
        return "nan".into();
    }
    if f.is_infinite() {
        return if f > 0.0 { "inf".into() } else { "-inf".into() };
    }
    let e = format!("{f:e}");
    let (digits, exp) = e.split_once('e').unwrap_or((&e, "0"));
    let exp: i32 = exp.parse().unwrap_or(0);
    if f != 0.0 && !(-4..16).contains(&exp) {
        return format!("{digits}e{}{:02}", if exp < 0 { '-' } else { '+' }, exp.abs());
    }
    let s = format!("{f}");
    if s.contains('.') { s } else { s + ".0" }
}

/// How `json.dumps` lays out.
pub struct Json {
    /// spaces per level; one line without
    pub indent: Option<String>,
    /// between items, between key and value
    pub separators: (String, String),
    pub sort_keys: bool,
    pub ensure_ascii: bool,
}

impl Json {
    /// Writes a value; what JSON cannot say is an error. `limit` bounds the output.
    pub fn write(&self, v: &Value, level: usize, limit: usize, out: &mut String) -> R<()> {
        if out.len() > limit {
            return Err(super::value::too_large());
        }
        match v {
            Value::None => out.push_str("null"),
            Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
            Value::Int(i) => out.push_str(&i.to_string()),
            Value::Float(f) if f.is_nan() => out.push_str("NaN"),
            Value::Float(f) if f.is_infinite() => {
                out.push_str(if *f > 0.0 { "Infinity" } else { "-Infinity" });
            }
            Value::Float(f) => out.push_str(&float(*f)),
            Value::Str(s) => self.string(s, out),
            Value::List(l) if l.shape != Shape::Iter => {
                if l.items.is_empty() {
                    out.push_str("[]");
                    return Ok(());
                }
                out.push('[');
                for (i, v) in l.items.iter().enumerate() {
                    self.item(i, level + 1, out);
                    self.write(v, level + 1, limit, out)?;
                }
                self.close(level, out);
                out.push(']');
            }
            Value::Dict(d) => {
                if d.entries.is_empty() {
                    out.push_str("{}");
                    return Ok(());
                }
                let mut keys = Vec::with_capacity(d.entries.len());
                for (k, v) in &d.entries {
                    keys.push((self.key(k)?, v));
                }
                if self.sort_keys {
                    keys.sort_by(|a, b| a.0.cmp(&b.0));
                }
                out.push('{');
                for (i, (k, v)) in keys.into_iter().enumerate() {
                    self.item(i, level + 1, out);
                    self.string(&k, out);
                    out.push_str(&self.separators.1);
                    self.write(v, level + 1, limit, out)?;
                }
                self.close(level, out);
                out.push('}');
            }
            v => return Err(format!("Object of type {} is not JSON serializable", v.type_name())),
        }
        Ok(())
    }

    fn key(&self, k: &Value) -> R<String> {
        match k {
            Value::Str(s) => Ok(s.to_string()),
            Value::None | Value::Bool(_) | Value::Int(_) | Value::Float(_) => {
                let mut s = String::new();
                self.write(k, 0, usize::MAX, &mut s)?;
                Ok(s)
            }
            k => Err(format!("a key of type {} is not JSON", k.type_name())),
        }
    }

    fn item(&self, i: usize, level: usize, out: &mut String) {
        if i > 0 {
            out.push_str(&self.separators.0);
        }
        if let Some(indent) = &self.indent {
            out.push('\n');
            (0..level).for_each(|_| out.push_str(indent));
        }
    }

    fn close(&self, level: usize, out: &mut String) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            (0..level).for_each(|_| out.push_str(indent));
        }
    }

    fn string(&self, s: &str, out: &mut String) {
        out.push('"');
        for c in s.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if (c as u32) < 0x20 || self.ensure_ascii && !c.is_ascii() => {
                    let mut buf = [0; 2];
                    for u in c.encode_utf16(&mut buf) {
                        out.push_str(&format!("\\u{u:04x}"));
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

/// `format % args` for `%s`, `%d`, `%i`, `%r`, `%f` with a precision, `%%`.
pub fn printf(vm: &Vm, f: &str, args: &[Value]) -> R<Value> {
    let mut out = String::new();
    let mut args = args.iter();
    let mut rest = f;
    while let Some(i) = rest.find('%') {
        out.push_str(&rest[..i]);
        rest = &rest[i + 1..];
        let n = rest.find(|c: char| c.is_ascii_alphabetic() || c == '%').ok_or("incomplete format")?;
        let (spec, c) = (&rest[..n], rest.as_bytes()[n]);
        rest = &rest[n + 1..];
        if c == b'%' {
            out.push('%');
            continue;
        }
        let v = args.next().ok_or("not enough arguments for format string")?;
        let precision = spec.strip_prefix('.').and_then(|p| p.parse::<usize>().ok()).filter(|&p| p <= 32);
        match (c, spec, precision) {
            (b's', "", _) => out.push_str(&to_text(vm, v)?),
            (b'r', "", _) => {
                to_text(vm, v)?;
                repr(v, &mut out);
            }
            (b'd' | b'i', "", _) => match v {
                Value::Float(f) => out.push_str(&format!("{}", f.trunc())),
                v => out.push_str(&super::ops::int(v)?.to_string()),
            },
            (b'f', _, p) if spec.is_empty() || p.is_some() => {
                let f = match v {
                    Value::Float(f) => *f,
                    v => super::ops::int(v)? as f64,
                };
                out.push_str(&format!("{f:.*}", p.unwrap_or(6)));
            }
            _ => return Err(format!("format `%{spec}{}` is not supported", c as char)),
        }
        vm.meter.room(out.len())?;
    }
    out.push_str(rest);
    Value::text(&vm.meter, out)
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// `strftime` of seconds since 1970 in UTC; unknown directives stay as they are.
pub fn strftime(f: &str, seconds: i64) -> String {
    let (days, second) = (seconds.div_euclid(86400), seconds.rem_euclid(86400));
    // Civil date of a day number (days since 0000-03-01 in 400-year eras).
    let z = days + 719_468;
    let (era, doe) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let yoe = (doe - doe / 1460 + doe / 36524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + i64::from(month <= 2);
    let leap = i64::from(year % 4 == 0 && (year % 100 != 0 || year % 400 == 0));
    let yday = match mp {
        10.. => doy - 305,
        _ => doy + 60 + leap,
    };
    let weekday = (days + 4).rem_euclid(7) as usize;
    let (h, m, s) = (second / 3600, second / 60 % 60, second % 60);
    let h12 = if h % 12 == 0 { 12 } else { h % 12 };
    let month_name = MONTHS[(month - 1).rem_euclid(12) as usize];
    let mut out = String::new();
    let mut chars = f.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut d = chars.next();
        let bare = d == Some('-');
        if bare {
            d = chars.next();
        }
        let two = |n: i64| if bare { n.to_string() } else { format!("{n:02}") };
        match d {
            Some('Y') => out.push_str(&year.to_string()),
            Some('y') => out.push_str(&two(year.rem_euclid(100))),
            Some('m') => out.push_str(&two(month)),
            Some('d') => out.push_str(&two(day)),
            Some('e') => out.push_str(&format!("{day:2}")),
            Some('H') => out.push_str(&two(h)),
            Some('I') => out.push_str(&two(h12)),
            Some('M') => out.push_str(&two(m)),
            Some('S') => out.push_str(&two(s)),
            Some('p') => out.push_str(if h < 12 { "AM" } else { "PM" }),
            Some('j') => out.push_str(&if bare { yday.to_string() } else { format!("{yday:03}") }),
            Some('B') => out.push_str(month_name),
            Some('b' | 'h') => out.push_str(&month_name[..3]),
            Some('A') => out.push_str(DAYS[weekday]),
            Some('a') => out.push_str(&DAYS[weekday][..3]),
            Some('F') => out.push_str(&format!("{year}-{month:02}-{day:02}")),
            Some('T') => out.push_str(&format!("{h:02}:{m:02}:{s:02}")),
            Some('Z') => out.push_str("UTC"),
            Some('z') => out.push_str("+0000"),
            Some('%') => out.push('%'),
            Some(c) => {
                out.push('%');
                out.push(c);
            }
            None => out.push('%'),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_follow_the_calendar() {
        let f = "%Y-%m-%d %H:%M:%S %j %a %B %-d";
        assert_eq!(strftime(f, 0), "1970-01-01 00:00:00 001 Thu January 1");
        assert_eq!(strftime(f, 951_782_400), "2000-02-29 00:00:00 060 Tue February 29");
        assert_eq!(strftime(f, 1_735_689_599), "2024-12-31 23:59:59 366 Tue December 31");
        assert_eq!(strftime("%j", 951_868_800), "061");
        assert_eq!(strftime("%j", 983_404_800), "060");
    }

    #[test]
    fn floats_read_as_python_writes_them() {
        for (f, s) in [
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e16, "1e+16"),
            (1e15, "1000000000000000.0"),
            (1e-5, "1e-05"),
            (0.0, "0.0"),
            (-2.5e-7, "-2.5e-07"),
        ] {
            assert_eq!(float(f), s);
        }
    }
}
