package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/batchd/batchd/internal/intake"
)

// checkFlags refuses a flag with an empty value, for instance from an unset shell
// variable, or with a value that is not UTF-8. It does not repeat the value, which may
// be a secret.
func checkFlags(cmd *cobra.Command, _ []string) error {
	var errs []error
	cmd.Flags().Visit(func(f *pflag.Flag) {
		for _, value := range valuesOf(f) {
			switch {
			case value == "":
				errs = append(errs, fmt.Errorf("--%s is empty: give it a value, or leave it out", f.Name))
			case f.Name != "config": // a file name may be any bytes
				errs = append(errs, checkArgument("--"+f.Name, value))
			}
		}
	})
	return errors.Join(errs...)
}

// valuesOf returns the texts that were given for a flag. Flags of other types check
// their values themselves.
func valuesOf(f *pflag.Flag) []string {
	if list, ok := f.Value.(pflag.SliceValue); ok {
		if values := list.GetSlice(); len(values) > 0 {
			return values
		}
		return []string{""}
	}
	if f.Value.Type() == "string" {
		return []string{f.Value.String()}
	}
	return nil
}

// checkArgument refuses text that is not UTF-8.
func checkArgument(name, value string) error {
	if i := intake.InvalidUTF8([]byte(value)); i >= 0 {
		return fmt.Errorf("%s holds the byte 0x%02x, which is not UTF-8: set it from a terminal or a file in UTF-8", name, value[i])
	}
	return nil
}
