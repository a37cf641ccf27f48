// Package setting has the tools with which packages declare their own settings: types
// of values with a special form in a configuration file, and checks that report each
// fault with the path of its setting.
//
// A package declares a setting as a field with a yaml tag in its Config or in a struct
// within it, sets its default in WithDefaults, and checks it in Check. internal/config
// composes these structs into one file, and is the only package that handles lines,
// variables and flags.
package setting
