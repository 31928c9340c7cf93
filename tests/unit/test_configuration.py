"""Configuration files: the policy allows every line, and the program reads it as the policy did."""

from __future__ import annotations

import pytest

from sidespawn.core.configuration import accept_configuration
from sidespawn.core.policy import Policy
from sidespawn.errors import Denied, PolicyError, Reason
from tests.unit.small import NET, OTHER, POLICY, line_of, load

SMALL = load()
PATH = "/state/tool.conf"


def check(content: str | bytes, policy: Policy = SMALL, rules: str = "extra") -> None:
    untrusted_content = content.encode() if isinstance(content, str) else content
    accept_configuration(policy.configuration[rules].rules, PATH, untrusted_content, policy.names, {"net": NET})


def refusal(content: str | bytes, policy: Policy = SMALL, rules: str = "extra") -> Denied:
    with pytest.raises(Denied) as caught:
        check(content, policy, rules)
    assert caught.value.reason is Reason.CONFIGURATION_NOT_ALLOWED
    assert caught.value.message.isascii()
    assert caught.value.message.isprintable()
    return caught.value


# ---------------------------------------------------------------- what passes


@pytest.mark.parametrize(
    "content",
    [
        "",
        "\n\n",
        "# a comment\n",
        "   # an indented comment: conf-script=/tmp/x\n",
        "\t\n",
        "log-queries\n",
        "log-queries",
        "  log-queries  \n",
        "\tcache-size=100\n",
        "cache-size=0\nlog-queries\n",
        "cache-size=1\ncache-size=2\n",
        "owner=nobody\n",
        f"owner={NET}\n",
        "cache-size =1\n",
        "cache-size  =  1\n",
        "cache-size=1 # a comment\n",
        'cache-size=1\t#a comment, with # and "\n',
        "log-queries # conf-script=/x\n",
        "log-queries\r\ncache-size=1\r\n# a comment\r\n\r\n",
        "# caf\u00e9 \u2028 \x85\n",
        "cache-size=1 # 10 \u20ac\n",
    ],
    ids=ascii,
)
def test_allow(content: str) -> None:
    check(content)


# ---------------------------------------------------------------- what does not

DENY = {
    "another directive": "conf-script=/tmp/x",
    "another directive without a value": "no-daemon",
    "abbreviated": "cache-siz=1",
    "longer": "cache-sizes=1",
    "upper case": "CACHE-SIZE=1",
    "mixed case": "Log-Queries",
    "with dashes": "--log-queries",
    "with one dash": "-log-queries",
    "no =": "cache-size 1",
    "no value": "cache-size",
    "empty value": "cache-size=",
    "value for a flag": "log-queries=extra",
    "= behind a flag": "log-queries=",
    "value out of range": "cache-size=101",
    "two values": "cache-size=1,2",
    "quoted value": 'cache-size="1"',
    "quoted directive": '"log-queries"',
    "comment behind another directive": "conf-script=/x # comment",
    "comment glued": "log-queries#x",
    "another comment sign": "; log-queries",
    "two on a line": "log-queries log-queries",
    "two on a line by ;": "log-queries;conf-script=/x",
    "escaped": "log\\-queries",
    "continued": "log-queries\\",
    "carriage return within": "log-queries\rconf-script=/x",
    "two carriage returns": "log-queries\r\r",
    "vertical tab": "log-queries\x0b",
    "form feed": "\x0clog-queries",
    "file separator": "log-queries\x1cconf-script=/x",
    "NUL behind": "log-queries\0",
    "escape": "\x1b[31mlog-queries",
    "delete": "log-queries\x7f",
    "another network": f"owner={OTHER}",
    "inclusion": "@include",
    "shell": "cache-size=$(id)",
    "a line of a password file": "root:x:0:0:root:/root:/bin/bash",
}


@pytest.mark.parametrize("line", DENY.values(), ids=DENY.keys())
def test_deny(line: str) -> None:
    assert "line 2 of '/state/tool.conf', " in refusal(f"log-queries\n{line}\nlog-queries\n").message


@pytest.mark.parametrize(
    "content",
    [
        b"log-queries\xff\n",
        "log-queries\u2028conf-script=/x\n".encode(),
        b"cache-size=1\xc2\xa0# comment",
        b"\xef\xbb\xbflog-queries\n",
    ],
    ids=["not UTF-8", "line separator", "no-break space", "byte order mark"],
)
def test_only_ascii(content: bytes) -> None:
    assert "bytes that are not ASCII" in refusal(content).message


@pytest.mark.parametrize("character", ["\0", "\r", "\x1b", "\x0b", "\x0c", "\x1c", "\x7f"], ids=ascii)
def test_a_comment_holds_no_control_character_either(character: str) -> None:
    refusal(f"# a comment{character}conf-script=/tmp/x\n")


def test_a_tab_in_a_comment_is_ignored() -> None:
    check("#\ta\tcomment\n")


@pytest.mark.parametrize("filler", ["#" * 1024, "# " + "x" * 1022, "#" + " " * 1023], ids=["#", "x", "blank"])
def test_no_line_is_longer_than_programs_read_at_once(filler: str) -> None:
    """dnsmasq 2.90 reads lines with fgets(3) into 1025 bytes, and takes the rest for another line."""
    refusal(f"log-queries\n{filler}conf-script=/tmp/x\n")


def test_neither_by_blanks_that_are_stripped() -> None:
    """Such a program would read two lines in one value, and the second could be another directive."""
    refusal(" " * 1018 + "owner=nobody\n")


def test_the_first_bad_line_is_named() -> None:
    found = refusal("# one\n\ncache-size=1\ncache-size=1000\nconf-script=/x\n")
    assert "line 4 of '/state/tool.conf', 'cache-size=1000', has a value that is not allowed" in found.message
    assert found.rule == f"small.toml:{line_of(POLICY, 'cache-size = ')}"


def test_a_directive_that_is_not_there_is_refused_by_the_whole_table() -> None:
    found = refusal("conf-script=/x\n")
    assert "is not an allowed directive" in found.message
    assert found.rule == f"small.toml:{line_of(POLICY, '[configuration.extra.directives]')}"


def test_a_long_line_is_cut_in_the_message() -> None:
    assert len(refusal("x" * 100_000).message) < 500


def test_names_bind_nothing_from_line_to_line() -> None:
    """Arguments say which network it is; files cannot."""
    policy = load(('["{net}", "nobody"]', '"{home}"'))
    check(f"owner=/state/{NET}\n", policy)
    refusal(f"owner=/state/{OTHER}\n", policy)


# ---------------------------------------------------------------- dnsmasq

EXECUTES = ["conf-script=/tmp/x", "dhcp-script=/tmp/x", "dhcp-luascript=/tmp/x", "script-arp", "script-on-renewal"]
READS_DIRECTIVES = ["conf-file=/tmp/x", "conf-dir=/tmp", "conf-dir=/tmp,*.conf", "servers-file=/tmp/x"]
READS = [
    *(
        "addn-hosts=/etc/shadow",
        "hostsdir=/etc",
        "resolv-file=/etc/shadow",
        "dhcp-hostsfile=/etc/shadow",
        "read-ethers",
    ),
    *("dhcp-optsfile=/etc/shadow", "dhcp-hostsdir=/etc", "dhcp-optsdir=/etc", "tftp-root=/", "enable-tftp"),
]
WRITES = [
    *("log-facility=/etc/passwd", "pid-file=/etc/passwd", "dhcp-leasefile=/etc/passwd", "dumpfile=/etc/passwd"),
    "dnssec-timestamp=/etc/passwd",
]
BECOMES = ["user=root", "group=root", "dhcp-scriptuser=root", "no-daemon", "enable-dbus", "enable-ubus", "ipset=/x/y"]
DANGEROUS = [*EXECUTES, *READS_DIRECTIVES, *READS, *WRITES, *BECOMES, "nftset=/x/4#ip#t#s"]

DISGUISES = {
    "plain": "{0}",
    "indented": "   {0}",
    "tab": "\t{0}",
    "upper case": "{upper}",
    "spaces around =": "{spaced}",
    "dashes": "--{0}",
    "quoted": '"{0}"',
    "comment behind": "{0} # harmless",
    "carriage return": "{0}\r",
    "behind a carriage return": "log-dhcp\r{0}",
    "NUL before": "\0{0}",
    "NUL behind": "{0}\0",
    "continued": "log-dhcp \\\n{0}",
    "form feed": "\x0c{0}",
}


@pytest.mark.parametrize("disguise", DISGUISES.values(), ids=DISGUISES.keys())
@pytest.mark.parametrize("directive", DANGEROUS, ids=lambda each: each.partition("=")[0])
def test_no_dangerous_directive_of_dnsmasq_in_any_disguise(neutron_dhcp: Policy, directive: str, disguise: str) -> None:
    line = disguise.format(directive, upper=directive.upper(), spaced=directive.replace("=", " = ", 1))
    refusal(f"log-dhcp\n{line}\n", neutron_dhcp)


@pytest.mark.parametrize(
    "line",
    [
        *(
            "dhcp-option=6,10.0.0.1",
            "dhcp-option-force=26,1400",
            "dhcp-option=option:ntp-server,10.0.0.1",
            "log-async=20",
        ),
        *("dhcp-option=15,example.org", "cache-size=1000", "server=10.0.0.1", "no-ping", "neg-ttl=60", "domain-needed"),
    ],
)
def test_what_operators_write_for_dnsmasq(neutron_dhcp: Policy, line: str) -> None:
    check(f"{line}\n", neutron_dhcp)


@pytest.mark.parametrize(
    "line",
    [
        *(
            "server=/x/10.0.0.1@eth0",
            "server=10.0.0.1@10.0.0.2#53",
            "server=/x/10.0.0.1@10.0.0.2",
            "no-ping=1",
            "log-facility=/var/lib/neutron/x",
            "log-facility=/var/log/../lib/x",
        ),
        *(
            "dhcp-option=6,10.0.0.1,10.0.0.2;x",
            "cache-size=-1",
            "server=10.0.0.1#0",
            "dhcp-option=6, 1 2",
            'dhcp-option=15,"a" "b"',
        ),
    ],
)
def test_forbidden_lines_for_dnsmasq(neutron_dhcp: Policy, line: str) -> None:
    refusal(f"{line}\n", neutron_dhcp)


def test_every_directive_of_dnsmasq_is_allowed_or_refused_with_a_reason(neutron_dhcp: Policy) -> None:
    rules = neutron_dhcp.configuration["extra"].rules
    allowed = {each.name for each in rules.directives}
    for name in neutron_dhcp.table.options.keys() - allowed:
        message = refusal(f"{name}=x\n", neutron_dhcp).message
        assert f"'{name}=x', is not an allowed directive: it " in message


@pytest.mark.parametrize(
    "line",
    [
        *("dhcp-option = 6 , 10.0.0.1,10.0.0.2", "dhcp-option=119,a.example,b.example", "dhcp-option=option6:23,[::1]"),
        *("dhcp-option=43,01:04:00", 'dhcp-option=15,"a, b"', "dhcp-option=tag:x,option:bootfile-name,http://a/b?c=d"),
        *("dhcp-option=66,10.0.0.1 # tftp", "dhcp-option=17,/srv/root", "dhcp-boot=pxelinux.0,host,10.0.0.1"),
        *("dhcp-match=set:efi,option:client-arch,7", "dhcp-host=fa:16:3e:00:00:01,10.0.0.9,infinite", "log-async"),
        *("server=/a.example/10.0.0.1#5353", "server=/a.example/", "address=/a.example/10.0.0.1", "local=/lan/"),
        *(
            "host-record=a.example,10.0.0.1,::1",
            "cname=a.example,b.example",
            "srv-host=_ldap._tcp.example,a.example,389",
        ),
        *('txt-record=example,"v=spf1 a -all"', "ra-param=eth0,high,0", "log-facility=/var/log/neutron/dnsmasq.log"),
    ],
)
def test_what_else_operators_write_for_dnsmasq(neutron_dhcp: Policy, line: str) -> None:
    check(f"{line}\r\n", neutron_dhcp)


def test_nothing_is_logged_where_a_file_says(neutron_dhcp: Policy) -> None:
    rules, content = neutron_dhcp.configuration["extra"].rules, b"log-facility=/var/log/x\nlog-async\n"
    assert accept_configuration(rules, PATH, content, neutron_dhcp.names, {})[0] == "log-async\n"


# ---------------------------------------------------------------- syntax of single programs


def mail(form: str, rule: str) -> Policy:
    return load(('"lines"', f'"{form}"'), ("log-queries = true", f"log-queries = true\nmail = {rule}"))


@pytest.mark.parametrize("form", ["blocks", "braces"])
@pytest.mark.parametrize(("rest", "written"), [("pass = false", ""), ('instead = "x"', "mail x")])
def test_an_at_sign_is_allowed_in_an_omitted_line(form: str, rest: str, written: str) -> None:
    policy = mail(form, f'{{ value = "<text>", {rest} }}')
    end = ";\n" if form == "braces" else "\n"
    content = f"mail a@example.org{end}".encode()
    text, _ = accept_configuration(policy.configuration["extra"].rules, PATH, content, policy.names, {"net": NET})
    assert text == (f"{written}{end}" if written else "")


@pytest.mark.parametrize("line", ["mail a@example.org", "mail a@", "mail a b@c", "mail a$b", "mail a~b"])
def test_what_programs_expand_is_not_passed_on(line: str) -> None:
    assert "a word cannot have" in refusal(line, mail("blocks", '"<text>"')).message
    check(line, mail("blocks", '{ value = "<text>", pass = false }'))


@pytest.mark.parametrize("line", ["mail a'b", "mail a`b", "mail a\\b", 'mail a"b', 'mail "a"'])
def test_quotes_are_not_even_allowed_in_an_omitted_line(line: str) -> None:
    refusal(line, mail("blocks", '{ value = "<text>", pass = false }'))


@pytest.mark.parametrize(
    "password", ["p@ss12", "@a", "$a", "S3cr$t", "~SEQ(a)", "a'b", "a\\b", "a;b", "<a>|^`?", "x" * 255]
)
def test_a_secret_is_passed_on_unchanged(password: str) -> None:
    policy = mail("blocks", '"<secret>"')
    rules = policy.configuration["extra"].rules
    assert accept_configuration(rules, PATH, f"mail {password}".encode(), policy.names, {})[0] == f"mail {password}\n"


@pytest.mark.parametrize(
    "password", ['a"b', "a{b", "a}b", "${x}", "$_PWD", "a b", "ab\\", "a\\!b", "x" * 256, "!ab", "#ab"]
)
def test_a_secret_is_nothing_that_keepalived_reads_otherwise(password: str) -> None:
    refusal(f"mail {password}", mail("blocks", '"<secret>"'))


@pytest.mark.parametrize("line", ["mail S3cr$t!x", "mail S3cr$t#x", "mail S3cr$t # x", "mail S3cr$t!{ mail x"])
def test_a_secret_ends_where_keepalived_sees_a_comment(line: str) -> None:
    policy = mail("blocks", '"<secret>"')
    rules = policy.configuration["extra"].rules
    assert accept_configuration(rules, PATH, line.encode(), policy.names, {})[0] == "mail S3cr$t\n"


@pytest.mark.parametrize("form", ["lines", "sections", "braces", "quoted"])
def test_a_secret_is_only_for_blocks(form: str) -> None:
    with pytest.raises(PolicyError, match=r'small.toml:\d+: configuration.extra.directives .*"blocks"'):
        mail(form, '"<secret>"')


@pytest.mark.parametrize("most", ["1K", "1M"])
def test_a_file_is_as_long_as_the_policy_says(most: str) -> None:
    policy = load(('format = "lines"', f'format = "lines"\nmost = "{most}"'))
    size = {"1K": 2**10, "1M": 2**20}[most]
    check(b"log-queries\n" * (size // 12), policy)
    assert f"is larger than {size} bytes" in refusal(b"log-queries\n" * (size // 12 + 1), policy).message
    with pytest.raises(PolicyError, match="must be at most 4M"):
        load(('format = "lines"', 'format = "lines"\nmost = "5M"'))


def test_a_directive_that_may_stand_alone() -> None:
    policy = load(('cache-size = "<integer 0..100>"', 'cache-size = { value = "<integer 0..100>", bare = true }'))
    check("cache-size\ncache-size=1\n", policy)
    refusal("cache-size=", policy)
    refusal("cache-size=x", policy)


def test_blanks_around_commas_are_left_out() -> None:
    policy = load(('owner = ["{net}", "nobody"]', 'owner = "<tag,...>"'))
    rules = policy.configuration["extra"].rules
    written = accept_configuration(rules, PATH, b"owner = a , b,c\n", policy.names, {})[0]
    assert written == "owner=a,b,c\n"
    for line in ("owner=a b", "owner=a,,b", "owner=,a", "owner=a,", 'owner="a",b', "owner=" + ",".join("a" * 65)):
        refusal(line, policy)


@pytest.mark.parametrize(
    "line", ["mail @example.org", "mail a @b", "@mail a", "@node mail a", "@^node mail a", "m@il a", "mail@ a"]
)
def test_an_at_sign_is_allowed_only_within_a_word(line: str) -> None:
    refusal(line, mail("blocks", '{ value = "<text>", pass = false }'))


# ---------------------------------------------------------------- words in quotes

QUOTED = load(
    (
        """path = "/state/<name>"
format = "lines"

[configuration.extra.directives]
cache-size = "<integer 0..100>"
log-queries = true
owner = ["{net}", "nobody"]
""",
        """path = "/state/<name>"
format = "quoted"

[configuration.extra.directives]
script = { value = '"<name>"', instead = '"/run/ours"' }
iface = { value = '"<interface>"', block = { pd = "<integer 1..9>" } }
""",
    )
)


def test_a_quoted_word_is_passed_on_in_quotes() -> None:
    text, _ = accept_configuration(
        QUOTED.configuration["extra"].rules, PATH, b'script "x"\niface "eth0" {\n# c\n pd 1\n}\n', QUOTED.names, {}
    )
    assert text == 'script "/run/ours"\niface "eth0" {\n    pd 1\n}\n'


@pytest.mark.parametrize(
    "content",
    [
        *("script x", 'script "x', 'script x"', 'script "x""', 'script """', 'script ""', 'script "', '"script" "x"'),
        *('script "x y"', "script 'x'", 'script "x" "y"', 'script "x"y', 'script "a;b"', 'script "$x"', 'script "@x"'),
        *('iface "eth0" { pd 1 }\nscript "/etc/x"', 'iface "eth0 {\n pd 1\n}', 'script "x"\0', 'script "\\"x"'),
    ],
    ids=ascii,
)
def test_other_quotes_are_refused(content: str) -> None:
    refusal(content, QUOTED)


def test_quotes_are_refused_where_the_format_has_none() -> None:
    blocks = load(('format = "lines"', 'format = "blocks"'), ('owner = ["{net}", "nobody"]', 'owner = "<text>"'))
    check("owner nobody", blocks)
    assert "a word cannot have" in refusal('owner "nobody"', blocks).message


# ---------------------------------------------------------------- no hole matches more than a word

HOLES = ["<name>", "<tag>", "<hostname>", "<interface>", "<ip>", "<cidr>", "<duration>", "{place}", "/run/<name>/x"]


def of_format(form: str, *rules: str) -> Policy:
    return load(
        ('format = "lines"', f'format = "{form}"'),
        ("log-queries = true", "\n".join(["log-queries = true", *rules])),
        ('home = "/state/{net}"', 'home = "/state/{net}"\nplace = "<name>"'),
    )


def as_line(form: str, *words: str) -> bytes:
    name, *values = words
    text = f"{name}={' '.join(values)}" if form == "lines" else " ".join(words)
    return f"{text};\n".encode() if form == "braces" else f"{text}\n".encode()


@pytest.mark.parametrize("form", ["lines", "blocks", "braces", "quoted"])
@pytest.mark.parametrize("hole", HOLES)
def test_no_hole_lets_a_keyword_in(form: str, hole: str) -> None:
    """In haproxy's `server metadata SOCKET namespace OTHER`, the socket's name seemed to contain blanks."""
    policy = of_format(form, f'server = "{hole}"')
    value = hole.replace("<name>", "a").replace("{place}", "a")
    for more in (" namespace other", " b", " b c"):
        refusal(as_line(form, "server", f"{value}{more}"), policy)
        refusal(as_line(form, "server", value.replace("a", f"a{more}")), policy)


@pytest.mark.parametrize("form", ["lines", "blocks", "braces", "quoted"])
def test_an_argument_cannot_bind_a_name_to_more_than_a_word(form: str) -> None:
    policy = of_format(form, 'server = "{place}"', 'path = { value = "x", instead = "{place}/x" }')
    rules = policy.configuration["extra"].rules
    for line in (as_line(form, "server", "a b"), as_line(form, "path", "x")):
        with pytest.raises(Denied):
            accept_configuration(rules, PATH, line, policy.names, {"place": "a b"})
        accept_configuration(rules, PATH, line.replace(b"a b", b"ab"), policy.names, {"place": "ab"})


def test_a_replacement_is_written_as_its_format_wants_it() -> None:
    for form, written in (("lines", "path=a/x\n"), ("blocks", "path a/x\n"), ("braces", "path a/x;\n")):
        policy = of_format(form, 'path = { value = "x", instead = "{place}/x" }')
        rules = policy.configuration["extra"].rules
        assert accept_configuration(rules, PATH, as_line(form, "path", "x"), policy.names, {"place": "a"})[0] == written
