package admission

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/pod-security-admission/api"
	"sigs.k8s.io/yaml"
)

// Configuration is what a file of an AdmissionConfiguration says.
type Configuration struct {
	PodSecurity PodSecurity
}

var errTwoConfigurations = errors.New("it gives both a path and a configuration")

// admissionConfiguration of apiserver.config.k8s.io/v1.
type admissionConfiguration struct {
	metav1.TypeMeta `json:",inline"`

	Plugins []struct {
		Name          string          `json:"name"`
		Path          string          `json:"path"`
		Configuration json.RawMessage `json:"configuration"`
	} `json:"plugins"`
}

// podSecurityConfiguration of pod-security.admission.config.k8s.io/v1.
type podSecurityConfiguration struct {
	metav1.TypeMeta `json:",inline"`

	Defaults struct {
		Enforce        string `json:"enforce"`
		EnforceVersion string `json:"enforce-version"`
		Audit          string `json:"audit"`
		AuditVersion   string `json:"audit-version"`
		Warn           string `json:"warn"`
		WarnVersion    string `json:"warn-version"`
	} `json:"defaults"`
	Exemptions struct {
		Usernames      []string `json:"usernames"`
		Namespaces     []string `json:"namespaces"`
		RuntimeClasses []string `json:"runtimeClasses"`
	} `json:"exemptions"`
}

// ReadConfiguration reads a file of an AdmissionConfiguration. What it says of
// a plugin that cannot be configured here is an error, not ignored.
func ReadConfiguration(file string) (*Configuration, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var in admissionConfiguration
	if err := strictly(data, &in, &in.TypeMeta, "AdmissionConfiguration", "apiserver.config.k8s.io/v1", "apiserver.k8s.io/v1alpha1"); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	out, seen := &Configuration{}, map[string]bool{}
	for i, p := range in.Plugins {
		at := fmt.Sprintf("%s: plugins[%d] %q", file, i, p.Name)
		if p.Name != "PodSecurity" {
			return nil, fmt.Errorf("%s cannot be configured: only PodSecurity can", at)
		}
		if seen[p.Name] {
			return nil, fmt.Errorf("%s is there twice", at)
		}
		seen[p.Name] = true
		data := []byte(p.Configuration)
		if p.Path != "" {
			if len(data) > 0 {
				return nil, fmt.Errorf("%s: %w", at, errTwoConfigurations)
			}
			path := p.Path
			if !filepath.IsAbs(path) {
				path = filepath.Join(filepath.Dir(file), path)
			}
			if data, err = os.ReadFile(path); err != nil {
				return nil, fmt.Errorf("%s: %w", at, err)
			}
		}
		if len(data) == 0 || string(data) == "null" {
			continue // its defaults
		}
		if out.PodSecurity, err = readPodSecurity(data); err != nil {
			return nil, fmt.Errorf("%s: %w", at, err)
		}
	}
	return out, nil
}

// strictly decodes YAML or JSON of a kind, in one of its versions.
func strictly(data []byte, into any, is *metav1.TypeMeta, kind string, versions ...string) error {
	if err := yaml.UnmarshalStrict(data, into); err != nil {
		return err
	}
	if is.Kind != kind || !slices.Contains(versions, is.APIVersion) {
		return fmt.Errorf("it is kind %q of %q, not %s of %s", is.Kind, is.APIVersion, kind, versions[0])
	}
	return nil
}

func readPodSecurity(data []byte) (PodSecurity, error) {
	const group = "pod-security.admission.config.k8s.io/"
	var in podSecurityConfiguration
	if err := strictly(data, &in, &in.TypeMeta, "PodSecurityConfiguration", group+"v1", group+"v1beta1", group+"v1alpha1"); err != nil {
		return PodSecurity{}, err
	}
	d, e := in.Defaults, in.Exemptions
	var errs field.ErrorList
	defaults, exempt := field.NewPath("defaults"), field.NewPath("exemptions")
	for _, m := range []struct{ mode, level, version string }{{"enforce", d.Enforce, d.EnforceVersion}, {"warn", d.Warn, d.WarnVersion}, {"audit", d.Audit, d.AuditVersion}} {
		if _, err := api.ParseLevel(m.level); err != nil && m.level != "" {
			errs = append(errs, field.Invalid(defaults.Child(m.mode), m.level, err.Error()))
		}
		if _, err := api.ParseVersion(m.version); err != nil && m.version != "" {
			errs = append(errs, field.Invalid(defaults.Child(m.mode+"-version"), m.version, err.Error()))
		}
	}
	errs = append(errs, checkNames(exempt.Child("namespaces"), e.Namespaces, func(s string) []string { return apivalidation.ValidateNamespaceName(s, false) })...)
	errs = append(errs, checkNames(exempt.Child("runtimeClasses"), e.RuntimeClasses, func(s string) []string { return apivalidation.NameIsDNSSubdomain(s, false) })...)
	errs = append(errs, checkNames(exempt.Child("usernames"), e.Usernames, func(s string) []string {
		if s == "" {
			return []string{"username must not be empty"}
		}
		return nil
	})...)
	return PodSecurity{Enforce: d.Enforce, EnforceVersion: d.EnforceVersion, Audit: d.Audit, AuditVersion: d.AuditVersion, Warn: d.Warn, WarnVersion: d.WarnVersion,
		Usernames: e.Usernames, Namespaces: e.Namespaces, RuntimeClasses: e.RuntimeClasses}, errs.ToAggregate()
}

func checkNames(at *field.Path, names []string, bad func(string) []string) field.ErrorList {
	var errs field.ErrorList
	for i, n := range names {
		if why := bad(n); len(why) > 0 {
			errs = append(errs, field.Invalid(at.Index(i), n, strings.Join(why, ", ")))
		} else if slices.Contains(names[:i], n) {
			errs = append(errs, field.Duplicate(at.Index(i), n))
		}
	}
	return errs
}
