package main

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

func TestTemplatesInsertByPlaceAndKind(t *testing.T) {
	t.Parallel()
	row := map[string]string{"name": `A "b" & c/d`, "n": "1.50", "flag": "true", "json": `{"x":[1]}`, "empty": "", "First Name": "Ada", "hostile": `C#/a?b&c=d+50% \e;f`, "umlaut": "Müller", "big": "1e+5", "bad": "\xff"}
	for _, tc := range []struct {
		place        place
		source, want string
	}{
		{placeJSON, `{"name": {name}, "n": {n:number}, "f":{flag:bool},"j":{json:json}}`, `{"name": "A \"b\" & c/d", "n": 1.50, "f":true,"j":{"x":[1]}}`},
		{placeJSON, `{"hi": "<{name}>", "q":"\"{n}"}`, `{"hi": "<A \"b\" & c/d>", "q":"\"1.50"}`},
		{placeJSON, `{"a":{empty},"b":"{empty}","c":{empty:number?},"d":{empty?},"e":"{empty?}"}`, `{"a":"","b":"","c":null,"d":null,"e":""}`},
		{placeJSON, `{First Name}`, `"Ada"`},
		{placeJSON, `{ "x": {} , "y":{"z":{n:raw}}}`, `{ "x": {} , "y":{"z":1.50}}`},
		{placeJSON, `{"x":"{{name}"}`, `{"x":"{name}"}`},
		{placeJSON, `{`, `{`},
		{placePath, `/items/{name}/{n:number}`, `/items/A%20%22b%22%20%26%20c%2Fd/1.50`},
		{placePath, `/{name:raw}{empty?}`, `/A "b" & c/d`},
		{placeQuery, `q={name}&e={empty}`, `q=A%20%22b%22%20%26%20c%2Fd&e=`},
		{placePath, `/{hostile}/{hostile:url}`, `/C%23%2Fa%3Fb%26c%3Dd%2B50%25%20%5Ce%3Bf/C%23%2Fa%3Fb%26c%3Dd%2B50%25%20%5Ce%3Bf`},
		{placeQuery, `{hostile}={hostile}`, `C%23%2Fa%3Fb%26c%3Dd%2B50%25%20%5Ce%3Bf=C%23%2Fa%3Fb%26c%3Dd%2B50%25%20%5Ce%3Bf`},
		{placePath, `/{umlaut}/%2F{n:raw}`, `/M%C3%BCller/%2F1.50`},
		{placeQuery, `n={big:number}&j={json:json}&b={flag:bool}`, `n=1e%2B5&j=%7B%22x%22%3A%5B1%5D%7D&b=true`},
		{placeText, `{name} {name:url}{empty}`, `A "b" & c/d A%20%22b%22%20%26%20c%2Fd`},
	} {
		tmpl, err := parseTemplate(tc.source, tc.place)
		require.NoError(t, err, tc.source)
		got, err := tmpl.expand(row)
		require.NoError(t, err, tc.source)
		require.Equal(t, tc.want, got)
	}
	for source, want := range map[string]string{
		`{name:number}`:  `column "name": "A \"b\" & c/d" is not a number as JSON writes it`,
		`{name:bool}`:    `column "name": "A \"b\" & c/d" is neither true nor false`,
		`{name:json}`:    `column "name": "A \"b\" & c/d" is not JSON`,
		`{empty:number}`: `column "empty": the value is empty: write {empty:number?} where null will do`,
		`{bad}`:          `column "bad": the value is not UTF-8: save the file as UTF-8`,
	} {
		tmpl, err := parseTemplate(source, placeJSON)
		require.NoError(t, err)
		_, err = tmpl.expand(row)
		require.EqualError(t, err, want)
	}
	tmpl, err := parseTemplate("/{empty}", placePath)
	require.NoError(t, err)
	_, err = tmpl.expand(row)
	require.EqualError(t, err, `column "empty": the value is empty, which would make another path: write {empty?} where that is meant`)
}

func TestBrokenTemplatesAreRefused(t *testing.T) {
	t.Parallel()
	for source, want := range map[string]string{
		`/{id`:        "the placeholder {id has no end",
		`{"a": {b"}`:  `the placeholder {b"} has no end`,
		`{id:int}`:    `{id:int}: unknown kind "int": expected one of raw, url, number, bool, json`,
		`{:raw}`:      "{:raw} names no column",
		`{?}`:         "{?} names no column",
		`"{id:json}"`: "{id:json} is within quotes",
	} {
		_, err := parseTemplate(source, placeJSON)
		require.ErrorContains(t, err, want)
	}
}

// FuzzTemplate checks two properties for any value: a JSON body stays JSON and contains
// the value, and a path stays one segment and contains the value.
func FuzzTemplate(f *testing.F) {
	for _, seed := range []string{"", "a", `"`, `\`, "{x}", "{{", "../..", "a/b?c#d", "\n\x00", "é", "\xff", "\u2028"} {
		f.Add(seed)
	}
	body, err := parseTemplate(`{"whole": {x}, "inside": "<{x}>"}`, placeJSON)
	require.NoError(f, err)
	path, err := parseTemplate(`/items/{x}`, placePath)
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, value string) {
		row := map[string]string{"x": value}
		text, err := body.expand(row)
		require.Equal(t, utf8.ValidString(value), err == nil)
		if err != nil {
			return
		}
		var got struct{ Whole, Inside string }
		require.NoError(t, json.Unmarshal([]byte(text), &got), text)
		require.Equal(t, value, got.Whole)
		require.Equal(t, "<"+value+">", got.Inside)

		segment, err := path.expand(row)
		require.Equal(t, value != "", err == nil)
		if err == nil {
			require.Equal(t, 2, strings.Count(segment, "/"))
			decoded, err := url.PathUnescape(strings.TrimPrefix(segment, "/items/"))
			require.NoError(t, err)
			require.Equal(t, value, decoded)
		}
	})
}

// FuzzParseTemplate checks that the parser fails on a template only by returning an error.
func FuzzParseTemplate(f *testing.F) {
	for _, seed := range []string{`{"a": {b}}`, "{", "{{", "{a:number?}", `{"a`, `"\`, "}{"} {
		f.Add(seed, "v")
	}
	f.Fuzz(func(t *testing.T, source, value string) {
		for _, where := range []place{placeText, placePath, placeQuery, placeJSON} {
			tmpl, err := parseTemplate(source, where)
			if err != nil {
				continue
			}
			row := map[string]string{}
			for _, column := range tmpl.columns() {
				require.NotEmpty(t, column)
				row[column] = value
			}
			_, _ = tmpl.expand(row)
		}
	})
}
