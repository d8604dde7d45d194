//! Just enough of Rust's grammar to tell code from comments, strings and tests.

/// The lines of a file before its tests begin.
pub(crate) fn lines_without_tests(path: &str, text: &str) -> usize {
    let is_all_tests = path.contains("/tests/") || path.ends_with("/tests.rs");
    if is_all_tests {
        return 0;
    }
    text.lines().take_while(|line| *line != "mod tests {").count()
}

/// The text with comments, strings and character literals blanked out, line breaks kept.
pub(crate) fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = length_of_no_code(rest, code.chars().next_back());
        if skipped == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            code.push(' ');
            code.extend(rest[..skipped].chars().filter(|&c| c == '\n'));
            rest = &rest[skipped..];
        }
    }
    code
}

/// How many bytes at the start of `rest` are a comment or a literal; 0 if it is code.
fn length_of_no_code(rest: &str, previous: Option<char>) -> usize {
    let until = |end: &str| rest.find(end).unwrap_or(rest.len());
    if rest.starts_with("//") {
        return until("\n");
    }
    if rest.starts_with("/*") {
        return (until("*/") + 2).min(rest.len());
    }
    if rest.starts_with('"') {
        return quoted(rest, '"');
    }
    if rest.starts_with('\'') {
        return character(rest);
    }
    let begins_word = !previous.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if begins_word && let Some(raw) = rest.strip_prefix("br").or(rest.strip_prefix('r')) {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw[hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let start = rest.len() - raw.len() + hashes + 1;
            let length = rest[start..].find(&end).map(|at| start + at + end.len());
            return length.unwrap_or(rest.len());
        }
    }
    0
}

/// The length of a literal from its opening to its closing quote.
fn quoted(rest: &str, quote: char) -> usize {
    let mut is_escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        if c == quote && !is_escaped {
            return at + c.len_utf8();
        }
        is_escaped = c == '\\' && !is_escaped;
    }
    rest.len()
}

/// The length of a character literal; 0 if the quote begins a lifetime.
fn character(rest: &str) -> usize {
    let mut after = rest.chars().skip(1);
    match (after.next(), after.next()) {
        (Some('\\'), _) | (_, Some('\'')) => quoted(rest, '\''),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(code_of(text), expected);
    }

    #[test]
    fn only_code_is_left() {
        check("a // unsafe\nb", "a  \nb");
        check("a /* unsafe\n */ b", "a  \n b");
        check(r#"f("un\"safe", 1)"#, "f( , 1)");
        check(r###"f(r#"un"safe"#)"###, "f( )");
        check(r#"f(br"\")"#, "f( )");
        check("f('\"', 'a', '\\'')", "f( ,  ,  )");
        check("fn f<'a>(x: &'a str)", "fn f<'a>(x: &'a str)");
        check("bar\"x\"", "bar ");
        check("\"never closed", " ");
        check("ü/ü", "ü/ü");
    }

    #[test]
    fn tests_are_not_counted() {
        assert_eq!(lines_without_tests("a/src/a.rs", "1\n2\nmod tests {\n4\n"), 2);
        assert_eq!(lines_without_tests("a/tests/a.rs", "1\n2\n"), 0);
        assert_eq!(lines_without_tests("a/src/tests.rs", "1\n2\n"), 0);
    }
}
