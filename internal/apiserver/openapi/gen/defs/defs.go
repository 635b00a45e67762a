// Package defs is where generate.sh puts the definitions for a moment; what it
// makes is never committed.
package defs
