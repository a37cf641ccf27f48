// Package setting holds what packages need to declare settings of their own: types of
// values that a configuration file writes in a form of its own, and checks that report
// each fault with the path of its setting.
//
// A package declares a setting as a field with a yaml tag in its Config or in a struct
// within that, gives it its default in WithDefaults, and checks it in Check.
// internal/config composes these structs into one file, and is the only package that
// knows of lines, variables and flags.
package setting
