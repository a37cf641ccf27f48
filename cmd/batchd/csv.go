package main

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/batchd/batchd/client"
)

// rowFlags are the templates that turn a CSV row into an action.
type rowFlags struct {
	id, method, path, body, bodyText string
	headers                          []string
	delimiter                        string
	// byExtension: the name of the file determines the delimiter.
	byExtension bool
}

// given reports whether any of the flags was set. They only make sense for CSV.
func (f *rowFlags) given() bool {
	return f.id != "" || f.method != "" || f.path != "" || f.body != "" || f.bodyText != "" || f.headers != nil || f.delimiter != ""
}

// rowTemplate turns rows into actions.
type rowTemplate struct {
	id, method, path, query, body, bodyText *template
	headers                                 []headerTemplate
	delimiter                               rune
	// delimited: a flag sets the delimiter.
	delimited bool
}

type headerTemplate struct {
	name  string
	value *template
}

// parse checks the flags, without having seen a row.
func (f *rowFlags) parse() (*rowTemplate, error) {
	if f.path == "" {
		return nil, errors.New("--path is missing: a row of CSV becomes an action by a template such as --path '/items/{id}'")
	}
	if f.body != "" && f.bodyText != "" {
		return nil, errors.New("--body and --body-text exclude each other")
	}
	t := &rowTemplate{delimiter: ',', delimited: f.delimiter != "" && !f.byExtension}
	var errs []error
	parse := func(flag, source string, where place) *template {
		parsed, err := parseTemplate(source, where)
		if err != nil {
			errs = append(errs, fmt.Errorf("--%s: %w", flag, err))
		}
		return parsed
	}
	path, query, hasQuery := strings.Cut(f.path, "?")
	// In {age:number?}/x the question mark belongs to the placeholder.
	for hasQuery && strings.Count(path, "{") > strings.Count(path, "}") {
		var more string
		more, query, hasQuery = strings.Cut(query, "?")
		path += "?" + more
	}
	t.path = parse("path", path, placePath)
	if hasQuery {
		t.query = parse("path", query, placeQuery)
	}
	t.id = parse("id", f.id, placeText)
	method := f.method
	if method == "" {
		method = http.MethodPost
	}
	t.method = parse("method", method, placeText)
	if f.body != "" {
		t.body = parse("body", f.body, placeJSON)
	}
	if f.bodyText != "" {
		t.bodyText = parse("body-text", f.bodyText, placeText)
	}
	for _, h := range f.headers {
		name, value, ok := strings.Cut(h, ":")
		if !ok || strings.TrimSpace(name) == "" {
			errs = append(errs, errors.New("--header-template: expected 'Name: value'"))
			continue
		}
		t.headers = append(t.headers, headerTemplate{strings.TrimSpace(name), parse("header-template", strings.TrimSpace(value), placeText)})
	}
	switch runes := []rune(f.delimiter); {
	case f.delimiter == `\t` || f.delimiter == "tab":
		t.delimiter = '\t'
	case len(runes) == 1 && strings.ContainsRune("\"\r\n\x00\ufffd", runes[0]):
		errs = append(errs, fmt.Errorf("--delimiter: %q cannot be a delimiter", f.delimiter))
	case len(runes) == 1:
		t.delimiter = runes[0]
	case len(runes) > 1:
		errs = append(errs, fmt.Errorf("--delimiter: %q is not one character", clip(f.delimiter)))
	}
	return t, errors.Join(errs...)
}

// bind checks that the file has every column that a template needs.
func (t *rowTemplate) bind(header []string) error {
	templates := []*template{t.id, t.method, t.path, t.query, t.body, t.bodyText}
	for _, h := range t.headers {
		templates = append(templates, h.value)
	}
	for _, tmpl := range templates {
		if tmpl == nil {
			continue
		}
		for _, column := range tmpl.columns() {
			if !slices.Contains(header, column) {
				return fmt.Errorf("there is no column %q: the columns are %s", column, quotedList(header))
			}
		}
	}
	return nil
}

// quotedList quotes the names of columns, so that blanks around them are visible.
func quotedList(names []string) string {
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = strconv.Quote(clip(name))
	}
	return strings.Join(quoted, ", ")
}

// action returns the action for one row.
func (t *rowTemplate) action(header []string, row map[string]string) (client.Action, error) {
	var firstErr error
	expand := func(tmpl *template) string {
		text, err := tmpl.expand(row)
		if firstErr == nil {
			firstErr = err
		}
		return text
	}
	a := client.Action{ID: expand(t.id), Method: strings.ToUpper(expand(t.method)), Path: expand(t.path)}
	if t.query != nil {
		a.Path += "?" + expand(t.query) // keeps the order and spelling of the template
	}
	for _, h := range t.headers {
		if a.Headers == nil {
			a.Headers = http.Header{}
		}
		a.Headers.Add(h.name, expand(h.value))
	}
	switch {
	case t.bodyText != nil:
		a.BodyText = expand(t.bodyText)
	case t.body != nil:
		text := expand(t.body)
		if firstErr == nil && !validJSON(text) {
			firstErr = fmt.Errorf("the body is not JSON once its placeholders are filled in: %s (for other bodies there is --body-text)", visible(clip(text)))
		}
		a.Body = json.RawMessage(text)
	case hasBody(a.Method):
		a.Body = rowObject(header, row)
	}
	return a, firstErr
}

// hasBody reports whether requests with that method usually have a body. Without a
// template, such a request gets the row as its body.
func hasBody(method string) bool {
	return method == http.MethodPost || method == http.MethodPut || method == http.MethodPatch
}

// rowObject returns the row as a JSON object of strings, in the order of the columns.
func rowObject(header []string, row map[string]string) json.RawMessage {
	var out bytes.Buffer
	for i, column := range header {
		out.WriteByte("{,"[min(i, 1)])
		out.WriteString(quote(column, false) + ":" + quote(row[column], false))
	}
	out.WriteByte('}')
	return out.Bytes()
}

// readCSV yields the action of every row, and records the line of each.
func readCSV(name string, in *bufio.Reader, t *rowTemplate, at *places) iter.Seq2[client.Action, error] {
	return func(yield func(client.Action, error) bool) {
		if err := checkStart(name, in); err != nil {
			yield(client.Action{}, err)
			return
		}
		r := csv.NewReader(newCSVText(in, t.delimiter))
		r.Comma = t.delimiter
		r.ReuseRecord = true
		first, err := r.Read()
		if errors.Is(err, io.EOF) {
			yield(client.Action{}, fmt.Errorf("%s: the file is empty: expected a row with the names of the columns", name))
			return
		}
		if err != nil {
			yield(client.Action{}, csvError(name, nil, nil, err))
			return
		}
		header := slices.Clone(first)
		if err := checkHeader(header, t); err != nil {
			line, _ := r.FieldPos(0)
			yield(client.Action{}, fmt.Errorf("%s:%d: %w", name, line, err))
			return
		}
		values := make(map[string]string, len(header))
		for {
			record, err := r.Read()
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				yield(client.Action{}, csvError(name, header, record, err))
				return
			}
			line, _ := r.FieldPos(0)
			for i, column := range header {
				values[column] = record[i]
			}
			action, err := t.action(header, values)
			if err != nil {
				yield(client.Action{}, fmt.Errorf("%s:%d: %w", name, line, err))
				return
			}
			at.add(line)
			if !yield(action, nil) {
				return
			}
		}
	}
}

func checkHeader(header []string, t *rowTemplate) error {
	if err := checkDelimiter(header, t); err != nil {
		return err
	}
	for i, column := range header {
		if strings.TrimSpace(column) == "" {
			return fmt.Errorf("column %d has no name: name it, or take its delimiter out of every row", i+1)
		}
		if slices.Contains(header[:i], column) {
			return fmt.Errorf("the column %q comes twice", clip(column))
		}
	}
	return t.bind(header)
}

// checkDelimiter refuses a header with a single column that seems to use another
// delimiter, unless a flag sets the delimiter.
func checkDelimiter(header []string, t *rowTemplate) error {
	if len(header) != 1 || t.delimited {
		return nil
	}
	at := strings.IndexAny(header[0], ";\t|,")
	if at < 0 {
		return nil
	}
	other := header[0][at : at+1]
	return fmt.Errorf("the only column is %q, which holds the delimiter of other files: use --delimiter %s, or --delimiter %s if it is one column",
		clip(header[0]), shellQuoted(other), shellQuoted(string(t.delimiter)))
}

// validJSON reports whether the text is a JSON value in UTF-8.
func validJSON(text string) bool {
	return jsontext.Value(text).IsValid(jsontext.AllowDuplicateNames(true))
}

// csvError adds the line and, if possible, the column to an error.
func csvError(name string, header, record []string, err error) error {
	parse, ok := errors.AsType[*csv.ParseError](err)
	text, isText := errors.AsType[*textError](err)
	switch {
	case isText && text.field < len(header):
		return fmt.Errorf("%s:%d:%d: column %q: %s", name, text.at.Line, text.at.Column, clip(header[text.field]), text.detail)
	case isText:
		return fmt.Errorf("%s:%w", name, err)
	case !ok:
		return fmt.Errorf("read %s: %w", name, err)
	case errors.Is(err, csv.ErrBareQuote):
		return fmt.Errorf("%s:%d:%d: there is a quote within a value that is not quoted: put the value into quotes, and write each quote within it twice",
			name, parse.Line, parse.Column)
	case errors.Is(err, csv.ErrQuote):
		return fmt.Errorf("%s:%d:%d: the value goes on after the quote that ends it: write each quote within a quoted value twice", name, parse.Line, parse.Column)
	case !errors.Is(err, csv.ErrFieldCount):
		return fmt.Errorf("%s:%d:%d: %w", name, parse.Line, parse.Column, parse.Err)
	case len(record) < len(header):
		return fmt.Errorf("%s:%d: column %q is missing: the row has %d of %d columns", name, parse.Line, header[len(record)], len(record), len(header))
	}
	return fmt.Errorf("%s:%d: the row has %d columns, but the header only %d: quote values that hold a delimiter", name, parse.Line, len(record), len(header))
}
