#!/usr/bin/env python3
"""Runs functions of a bitbake recipe: with bitbake where there is one, else with as much of it as isar-tarball.bbclass asks for.

    bitbake.py RECIPE NAME=VALUE... run FUNCTION     runs it; exit status 1 when it failed
    bitbake.py RECIPE NAME=VALUE... show NAME...     prints the variables and functions as they would be used

BBPATH says where conf/bitbake.conf and the classes are, INHERIT which classes are read before the recipe; both are given as
NAME=VALUE. BITBAKE_DIR in the environment is bitbake's source tree, or a directory with its package `bb`.
"""

import collections
import glob
import logging
import os
import re
import shutil
import subprocess
import sys
import types


# The globals of all Python functions.
context = {}


class Datastore:
    """Variables with flags and overrides, and functions, which are variables too."""

    def __init__(self):
        self.values, self.defaults, self.weak, self.additions, self.flags, self.inherited = {}, {}, {}, [], {}, []
        self.looking_up_overrides = False
        self.python = context
        context.update({'d': self, 'bb': bb, 'os': os})

    def getVar(self, name, expand=True):
        value = self.values.get(name, self.defaults.get(name, self.weak.get(name)))
        overrides = self._overrides()
        for override in overrides:
            value = self.values.get(name + ':' + override, value)
        for key, operation, override, added in self.additions:
            if key == name and (not override or override in overrides):
                value = (value or '') + added if operation == 'append' else added + (value or '')
        return self.expand(value) if expand and isinstance(value, str) else value

    def _overrides(self):
        """OVERRIDES as a list. What it is made of is itself looked up without overrides."""
        if self.looking_up_overrides:
            return []
        self.looking_up_overrides = True
        overrides = (self.getVar('OVERRIDES') or '').split(':')
        self.looking_up_overrides = False
        return overrides

    def setVar(self, name, value):
        self.values[name] = value

    def getVarFlag(self, name, flag):
        value = self.flags.get(name, {}).get(flag)
        return self.expand(value) if isinstance(value, str) else value

    def expand(self, text):
        while True:
            expanded = re.sub(r'\$\{([A-Za-z0-9_:+./-]+)\}', self._variable, text)
            expanded = re.sub(r'\$\{@(.+?)\}', lambda match: str(eval(match[1], self.python)), expanded)
            if expanded == text:
                return text
            text = expanded

    def _variable(self, match):
        value = self.getVar(match[1])
        # What bitbake does not know is left to the shell.
        return match[0] if value is None else value


class Parser:
    """The statements of bitbake's language that isar's recipes and classes are made of; anything else is an error."""

    ASSIGNMENT = re.compile(
        r'''(?P<export>export\s+)?(?P<name>[\w.+-]+(?::[\w.+-]+)*)(?:\[(?P<flag>[\w-]+)\])?\s*'''
        r'''(?P<operator>\?\?=|\?=|:=|\+=|=\+|\.=|=\.|=)\s*(?P<quote>["'])(?P<value>.*)(?P=quote)$''', re.S)
    FUNCTION = re.compile(r'(?P<python>python\s+)?(?P<name>[\w:-]+)\s*\(\s*\)\s*\{$')

    def __init__(self, d):
        self.d = d

    def file(self, path):
        with open(path, encoding='utf-8') as file:
            lines = collections.deque(file.read().split('\n'))
        while lines:
            line = lines.popleft()
            while line.endswith('\\') and not line.startswith('#'):
                line = line[:-1] + lines.popleft()
            if line.strip() and not line.startswith('#'):
                self.statement(line.rstrip(), lines, path)

    def statement(self, line, lines, path):
        if match := self.FUNCTION.match(line):
            body = []
            while (inner := lines.popleft()) != '}':
                body.append(inner + '\n')
            flags = self.d.flags.setdefault(match['name'], {})
            flags['func'], flags['python'] = '1', match['python'] and '1'
            self.d.setVar(match['name'], ''.join(body))
        elif line.startswith('def '):
            body = [line]
            while lines and (lines[0].startswith(' ') or not lines[0]):
                body.append(lines.popleft())
            exec(compile('\n'.join(body), path, 'exec'), self.d.python)
        elif match := re.match(r'inherit\s+(.+)$', line):
            self.inherit(match[1])
        elif match := re.match(r'export\s+([\w]+)$', line):
            self.d.flags.setdefault(match[1], {})['export'] = '1'
        elif match := self.ASSIGNMENT.match(line):
            self.assignment(**match.groupdict())
        else:
            raise SyntaxError(f'{path}: {line}')

    def assignment(self, export, name, flag, operator, quote, value):
        d = self.d
        if flag:
            d.flags.setdefault(name, {})[flag] = value
            return
        if export:
            d.flags.setdefault(name, {})['export'] = '1'
        base, *marks = name.split(':')
        if marks and marks[0] in ('append', 'prepend'):
            d.additions.append((base, marks[0], marks[1] if len(marks) > 1 else None, value))
        elif operator == '??=':
            d.weak[name] = value
        elif operator == '?=':
            d.defaults.setdefault(name, value)
        elif operator == ':=':
            d.setVar(name, d.expand(value))
        else:
            old = d.values.get(name) or ''
            d.setVar(name, {'=': value, '+=': f'{old} {value}', '.=': old + value,
                            '=+': f'{value} {old}', '=.': value + old}[operator])

    def inherit(self, names):
        for name in self.d.expand(names).split():
            places = self.d.getVar('BBPATH').split(':')
            path = next(path for place in places if os.path.exists(path := f'{place}/classes/{name}.bbclass'))
            if path not in self.d.inherited:
                self.d.inherited.append(path)
                self.file(path)


def exec_func(name, d):
    """Runs a function: Python here, shell by /bin/sh with all shell functions and exported variables."""
    for directory in d.expand(d.getVarFlag(name, 'dirs') or '').split():
        os.makedirs(directory, exist_ok=True)
        os.chdir(directory)
    body = d.getVar(name)
    if d.getVarFlag(name, 'python'):
        exec('def function(d):\n' + body, d.python)
        d.python['function'](d)
        return
    script = 'set -e\n'
    for variable, flags in d.flags.items():
        if flags.get('export') and (value := d.getVar(variable)) is not None:
            script += f"export {variable}='{value}'\n"
    # Only what is called is expanded: the rest may name variables that this recipe does not have.
    wanted, written = [name], set()
    while wanted:
        function = wanted.pop()
        if function in written:
            continue
        written.add(function)
        text = d.getVar(function)
        script += f'{function}() {{\n{text}}}\n'
        others = [other for other, flags in d.flags.items() if flags.get('func') and not flags.get('python')]
        wanted += [other for other in others if re.search(rf'\b{other}\b', text)]
    os.makedirs(d.getVar('T'), exist_ok=True)
    run = f"{d.getVar('T')}/run.{name}"
    with open(run, 'w', encoding='utf-8') as file:
        file.write(f'{script}{name}\n')
    sys.stdout.flush()
    handler = d.getVarFlag(name, 'progress')
    with subprocess.Popen(['/bin/sh', run], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True) as process:
        for line in process.stdout:
            sys.stdout.write(line)
            if handler == 'percent' and (percents := re.findall(r'(\d+)%', line)):
                print('progress:', percents[-1])
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, name)


def remove(pattern, recurse=False):
    for path in glob.glob(pattern):
        if recurse and os.path.isdir(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)


def contains(variable, words, then, otherwise, d):
    return then if set(words.split()) <= set((d.getVar(variable) or '').split()) else otherwise


def fatal(*words):
    raise RuntimeError(' '.join(words))


def parse_alone(recipe, variables):
    """The recipe, read by this file."""
    d = Datastore()
    for name, value in variables.items():
        d.setVar(name, value)
    parser = Parser(d)
    places = d.getVar('BBPATH').split(':')
    parser.file(next(path for place in places if os.path.exists(path := f'{place}/conf/bitbake.conf')))
    parser.inherit(d.getVar('INHERIT'))
    parser.file(recipe)
    return d


def parse_with_bitbake(recipe, variables):
    """The recipe, read by bitbake."""
    d = bb.data.init()
    for name, value in variables.items():
        d.setVar(name, value)
    d.setVar('__bbclasstype', 'recipe')
    d = bb.parse.handle('conf/bitbake.conf', d, True)
    d.setVar('__bbclasstype', 'global')
    bb.parse.BBHandler.inherit(d.getVar('INHERIT'), recipe, 0, d)
    d.setVar('__bbclasstype', 'recipe')
    d.setVar('FILE', recipe)
    d = bb.parse.handle(recipe, d, True)
    # For the signatures of tasks, bitbake looks through everything that they refer to.
    for name in [name for name in d if name.startswith('do_') and d.getVarFlag(name, 'func')]:
        bb.build.addtask(name, None, None, d)
    bb.data.generate_dependencies(d, set())
    return d


def load_bitbake(directory):
    """bitbake's modules, and its events on stdout."""
    package = next(path for path in (f'{directory}/lib', directory) if os.path.isdir(f'{path}/bb'))
    sys.path.insert(0, package)
    if not os.path.isdir(f'{package}/hashserv'):
        # Copies for pip come without the hash server, which nothing here asks for.
        for name in ('hashserv', 'hashserv.client'):
            sys.modules[name] = types.ModuleType(name)
        sys.modules['hashserv'].client = sys.modules['hashserv.client']
    import bb
    import bb.build
    import bb.data
    import bb.event
    import bb.parse
    import bb.parse.parse_py.BBHandler
    bb.parse.BBHandler = bb.parse.parse_py.BBHandler

    def tell(event, d=None):
        if isinstance(event, bb.build.TaskProgress):
            print('progress:', event.progress, flush=True)

    bb.event.fire = tell
    errors = logging.StreamHandler()
    errors.setLevel(logging.ERROR)
    logging.getLogger('BitBake').addHandler(errors)
    return bb


if os.environ.get('BITBAKE_DIR'):
    bb = load_bitbake(os.environ['BITBAKE_DIR'])
    parse = parse_with_bitbake
else:
    bb = types.SimpleNamespace(
        build=types.SimpleNamespace(exec_func=exec_func),
        fatal=fatal,
        fetch2=types.SimpleNamespace(
            runfetchcmd=lambda command, d: subprocess.run(command, shell=True, check=True, stdout=subprocess.PIPE).stdout),
        utils=types.SimpleNamespace(
            contains=contains, get_context=lambda: context, remove=remove,
            to_boolean=lambda value: str(value or '').lower() in ('y', 'yes', '1', 'true', 't')))
    sys.modules['bb'] = bb
    parse = parse_alone


def main():
    recipe, *words = sys.argv[1:]
    variables = dict(word.split('=', 1) for word in words if '=' in word)
    command, *names = [word for word in words if '=' not in word]
    d = parse(recipe, variables)
    if command == 'show':
        for name in names:
            print(f'{name}:\n{d.getVar(name)}')
        return 0
    os.makedirs(d.getVar('T'), exist_ok=True)
    try:
        for name in names:
            bb.build.exec_func(name, d)
    except Exception as error:
        print(error)
        return 1
    return 0


sys.exit(main())
