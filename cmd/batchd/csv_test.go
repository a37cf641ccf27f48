package main

import (
	"bufio"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRowsBecomeActions(t *testing.T) {
	t.Parallel()
	const people = "id,name,age\n7,\"Ada, \"\"Countess\"\"\",36\n8,Bob,\n"
	for name, tc := range map[string]struct {
		file, content string
		flags         []string
		want          []string
	}{
		"the row as the body": {
			"a.csv", people,
			[]string{"--path", "/people"},
			[]string{
				`{"method":"POST","path":"/people","body":{"id":"7","name":"Ada, \"Countess\"","age":"36"}}`,
				`{"method":"POST","path":"/people","body":{"id":"8","name":"Bob","age":""}}`,
			},
		},
		"templates of all": {
			"a.csv", people,
			[]string{"--id", "p-{id}", "--method", "put", "--path", "/people/{id}?by={name}&dry=1", "--body", `{"n": {name}, "age": {age:number?}}`, "--header-template", "X-Who: {name:url}", "--header-template", "x-static: 1"},
			[]string{
				`{"id":"p-7","method":"PUT","path":"/people/7?by=Ada%2C%20%22Countess%22&dry=1","headers":{"X-Static":"1","X-Who":"Ada%2C%20%22Countess%22"},"body":{"n":"Ada, \"Countess\"","age":36}}`,
				`{"id":"p-8","method":"PUT","path":"/people/8?by=Bob&dry=1","headers":{"X-Static":"1","X-Who":"Bob"},"body":{"n":"Bob","age":null}}`,
			},
		},
		"URLs": {
			"a.csv", "key,v\nC#/x,a=b&c d+50%\n",
			[]string{"--method", "GET", "--path", "/%2Fkeys/{key}?z=%zz&v={v}&{key}=1&a=+"},
			[]string{`{"method":"GET","path":"/%2Fkeys/C%23%2Fx?z=%zz&v=a%3Db%26c%20d%2B50%25&C%23%2Fx=1&a=+"}`},
		},
		"a GET has no body": {
			"a.csv", people,
			[]string{"--method", "GET", "--path", "/people/{id}{age:number?}"},
			[]string{`{"method":"GET","path":"/people/736"}`, `{"method":"GET","path":"/people/8"}`},
		},
		"text": {
			"a.csv", people,
			[]string{"--path", "/p", "--body-text", "name={name:url}&x={{y}"},
			[]string{`{"method":"POST","path":"/p","body_text":"name=Ada%2C%20%22Countess%22&x={y}"}`, `{"method":"POST","path":"/p","body_text":"name=Bob&x={y}"}`},
		},
		"tabs by the extension": {
			"a.tsv", "id\tname\n7\ta,b\n",
			[]string{"--path", "/{id}"},
			[]string{`{"method":"POST","path":"/7","body":{"id":"7","name":"a,b"}}`},
		},
		"semicolons, sniffed, byte order mark": {
			"export", "\xef\xbb\xbfid;name\n7;x\n",
			[]string{"--path", "/{id}", "--delimiter", ";"},
			[]string{`{"method":"POST","path":"/7","body":{"id":"7","name":"x"}}`},
		},
		"line ends within quotes stay": {
			"a.csv", "id,note\r\n7,\"a\r\nb\nc\r\r\nd\"\r\n8,\"\r\n\"",
			[]string{"--path", "/{id}"},
			[]string{`{"method":"POST","path":"/7","body":{"id":"7","note":"a\r\nb\nc\r\r\nd"}}`, `{"method":"POST","path":"/8","body":{"id":"8","note":"\r\n"}}`},
		},
		"no line end at the last row, blank lines": {
			"a.csv", "\nid,note\r\n\r\n7,x\n\n8,\"y\"",
			[]string{"--path", "/{id}"},
			[]string{`{"method":"POST","path":"/7","body":{"id":"7","note":"x"}}`, `{"method":"POST","path":"/8","body":{"id":"8","note":"y"}}`},
		},
		"one column that holds a semicolon": {
			"a.csv", "a;b\n7\n",
			[]string{"--path", "/{a;b}", "--delimiter", ","},
			[]string{`{"method":"POST","path":"/7","body":{"a;b":"7"}}`},
		},
		"a mark within a value": {
			"a.csv", "id,n\n7,x\ufeff\n",
			[]string{"--path", "/{id}"},
			[]string{`{"method":"POST","path":"/7","body":{"id":"7","n":"x` + "\ufeff" + `"}}`},
		},
		"only a header": {"a.csv", "id\n", []string{"--path", "/{id}"}, nil},
	} {
		server := newFakeServer(t)
		got := batchd(t, "", append([]string{"submit", file(t, tc.file, tc.content), "--server", server.URL}, tc.flags...)...)
		require.Equal(t, exitOK, got.code, "%s: %s", name, got.stderr)
		require.Equal(t, tc.want, server.submissions[0].actions(t), name)
	}
}

func TestRowsBeyondAllMeasureAreRefused(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"id\n" + strings.Repeat("x", 99) + "\n" + strings.Repeat("x", 99) + "\n": "",
		"id\n" + strings.Repeat("x", 101) + "\n":                                 "2:101: the row has more than 0 MiB",
		"id,n\n1,\"" + strings.Repeat("x\n", 99):                                 "2:3: the row has more than 0 MiB: the quote that opens here may have no end",
	} {
		r := newCSVText(bufio.NewReader(strings.NewReader(text)), ',')
		r.most = 100
		_, err := io.Copy(io.Discard, r)
		if want == "" {
			require.NoError(t, err)
		} else {
			require.EqualError(t, err, want)
		}
	}
}

func TestRowsThatDoNotFitNameLineAndColumn(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		content string
		flags   []string
		want    string
	}{
		"no such column":    {"id,name\n1,a\n", []string{"--path", "/{nick}"}, `a.csv:1: there is no column "nick": the columns are "id", "name"`},
		"blanks in a name":  {" id ,name\n1,a\n", []string{"--path", "/{id}"}, `a.csv:1: there is no column "id": the columns are " id ", "name"`},
		"too short":         {"id,name,age\n1,a,3\n2,b\n", []string{"--path", "/{id}"}, `a.csv:3: column "age" is missing: the row has 2 of 3 columns`},
		"too long":          {"id\n1\n2,b\n", []string{"--path", "/{id}"}, "a.csv:3: the row has 2 columns, but the header only 1: quote values that hold a delimiter"},
		"not a number":      {"id,age\n1,\"a\nb\"\n2,x\n", []string{"--path", "/{id}", "--body", `{"a":{age:number}}`}, `a.csv:2: column "age": "a\nb" is not a number as JSON writes it`},
		"line after quotes": {"id,age\n\"1\n\",1\n2,x\n", []string{"--path", "/{id}", "--body", `{"a":{age:number}}`}, `a.csv:4: column "age": "x" is not a number as JSON writes it`},
		"empty in a path":   {"id,x\n,1\n", []string{"--path", "/{id}"}, `a.csv:2: column "id": the value is empty, which would make another path: write {id?} where that is meant`},
		"body not JSON":     {"id\nx\n", []string{"--path", "/", "--body", `{"a":{id:raw}}`}, `a.csv:2: the body is not JSON once its placeholders are filled in: {"a":x} (for other bodies there is --body-text)`},
		"column twice":      {"id,id\n1,2\n", []string{"--path", "/{id}"}, `a.csv:1: the column "id" comes twice`},
		"bare quote":        {"id\na\"b\n", []string{"--path", "/{id}"}, `a.csv:2:2: there is a quote within a value that is not quoted: put the value into quotes, and write each quote within it twice`},
		"semicolons":        {"id;name\n1;a\n", []string{"--path", "/{id}"}, `a.csv:1: the only column is "id;name", which holds the delimiter of other files: use --delimiter ';', or --delimiter ',' if it is one column`},
		"tabs":              {"id\tname\n1\ta\n", []string{"--path", "/{id}"}, `a.csv:1: the only column is "id\tname", which holds the delimiter of other files: use --delimiter tab, or --delimiter ',' if it is one column`},
		"a wrong delimiter": {"id\tname\n1\ta\n", []string{"--path", "/{id}", "--delimiter", ";"}, "a.csv:1: there is no column \"id\": the columns are \"id\\tname\""},
		"nameless at last":  {"id,name,\n1,a,\n", []string{"--path", "/{id}"}, "a.csv:1: column 3 has no name: name it, or take its delimiter out of every row"},
		"nameless at first": {",name\n1,a\n", []string{"--path", "/{name}"}, "a.csv:1: column 1 has no name: name it, or take its delimiter out of every row"},
		"nameless alone":    {"\"\"\n1\n", []string{"--path", "/"}, "a.csv:1: column 1 has no name: name it, or take its delimiter out of every row"},
		"a blank name":      {"\nid, ,x\n1,a,b\n", []string{"--path", "/{id}"}, "a.csv:2: column 2 has no name: name it, or take its delimiter out of every row"},
		"sep=":              {"sep=;\nid;name\n1;a\n", []string{"--path", "/{id}"}, `a.csv:1: the first line is "sep=;", which is for Excel and no row: delete it, and use --delimiter ';'`},
		"SEP= quoted":       {"\ufeff\"Sep=\t\"\r\nid\tname\r\n1\ta\n", []string{"--path", "/{id}"}, `a.csv:1: the first line is "Sep=\t", which is for Excel and no row: delete it, and use --delimiter tab`},
		"UTF-16":            {"\xff\xfei\x00d\x00\n\x001\x00\n\x00", []string{"--path", "/{id}"}, "a.csv: the text is in UTF-16: save it as UTF-8"},
		"UTF-16, no mark":   {"\x00i\x00d\x00\n\x001\x00\n", []string{"--path", "/{id}"}, "a.csv: the text is in UTF-16: save it as UTF-8"},
		"a mark in a row":   {"id,n\n1,a\n\ufeffid,n\n2,b\n", []string{"--path", "/{id}"}, "a.csv:3:1: column \"id\": there is a byte order mark (U+FEFF) here, which is allowed at the very start only: remove it (a file that was appended to another leaves one)"},
		"cell not UTF-8":    {"id,name\n1,a\n7,M\xfcller\n", []string{"--path", "/{id}"}, `a.csv:3:4: column "name": the byte 0xfc is not UTF-8: save the file as UTF-8`},
		"a body template":   {"id,name\n7,M\xfcller\n", []string{"--path", "/{id}", "--body", "{id}"}, `a.csv:2:4: column "name": the byte 0xfc is not UTF-8: save the file as UTF-8`},
		"quoted, not UTF-8": {"id,name\n7,\"a\n\xc3\"\n", []string{"--path", "/{id}"}, `a.csv:3:1: column "name": the byte 0xc3 is not UTF-8: save the file as UTF-8`},
		"name not UTF-8":    {"id,\xe9\n7,x\n", []string{"--path", "/{id}"}, `a.csv:1:4: the byte 0xe9 is not UTF-8: save the file as UTF-8`},
		"a zero byte":       {"id,name\n7,x\x00y\n", []string{"--path", "/{id}"}, `a.csv:2:4: column "name": there is a zero byte here: expected text`},
		"an open quote":     {"id,name\n7,\"x\n8,y\n", []string{"--path", "/{id}"}, `a.csv:2:3: column "name": the quote that opens here has no end: a quote within a quoted value is written twice`},
		"a quote too many":  {"id,name\n7,\"x\"y\",z\n8,y\n", []string{"--path", "/{id}"}, `a.csv:2:5: the value goes on after the quote that ends it: write each quote within a quoted value twice`},
		"in quotes":         {"id,name,x\n7,\"x\xfc\",z\n", []string{"--path", "/{id}"}, `a.csv:2:5: column "name": the byte 0xfc is not UTF-8: save the file as UTF-8`},
		"zero in quotes":    {"id,name\n7,\"x\x00\"\n", []string{"--path", "/{id}"}, `a.csv:2:5: column "name": there is a zero byte here: expected text`},
		"on a later line":   {"id,name\n1,\"a,b\n,M\xfc\"\n", []string{"--path", "/{id}"}, `a.csv:3:3: column "name": the byte 0xfc is not UTF-8: save the file as UTF-8`},
		"other delimiter":   {"id§name\n1,2§\"M\xfc\"\n", []string{"--path", "/{id}", "--delimiter", "§"}, `a.csv:2:8: column "name": the byte 0xfc is not UTF-8: save the file as UTF-8`},
		"old Mac":           {"id,name\r7,x\r8,y\r", []string{"--path", "/{id}"}, "a.csv:1:9: a line ends before this with CR alone, as on old Macs: save the file with LF or CRLF"},
		"half a surrogate":  {"id,x\n1,\"\"\"\\ud800\"\"\"\n", []string{"--path", "/", "--body", `{"a":{x:json}}`}, `a.csv:2: column "x": "\"\\ud800\"" is not JSON`},
		"empty file":        {"", []string{"--path", "/{id}"}, "a.csv: the file is empty: expected a row with the names of the columns"},
		"no path":           {"id\n1\n", []string{"--body", "{id}"}, "--path is missing: a row of CSV becomes an action by a template such as --path '/items/{id}'"},
		"two bodies":        {"id\n1\n", []string{"--path", "/", "--body", "{id}", "--body-text", "x"}, "--body and --body-text exclude each other"},
		"broken template":   {"id\n1\n", []string{"--path", "/{id", "--header-template", "x"}, "--path: the placeholder {id has no end: write {column}, or {{ for a literal {\n--header-template: expected 'Name: value'"},
		"long delimiter":    {"id\n1\n", []string{"--path", "/", "--delimiter", ",,"}, `--delimiter: ",," is not one character`},
		"bad delimiter":     {"id\n1\n", []string{"--path", "/", "--delimiter", "\""}, `--delimiter: "\"" cannot be a delimiter`},
	} {
		server := newFakeServer(t)
		path := file(t, "a.csv", tc.content)
		got := batchd(t, "", append([]string{"submit", path, "--server", server.URL}, tc.flags...)...)
		require.Equal(t, exitFailure, got.code, name)
		require.Equal(t, "batchd: "+tc.want+"\n", strings.ReplaceAll(got.stderr, filepath.Dir(path)+"/", ""), name)
		require.Empty(t, server.submissions, name)
	}
}
